"""A small world in LaMP's formats: people with stated tastes, and what they would make of each thing."""
