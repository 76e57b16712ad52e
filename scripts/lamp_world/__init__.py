"""A small synthetic world in LaMP's formats: people with stated tastes, and their answers to random inputs."""
