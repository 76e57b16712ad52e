"""Reproductions of published experiments: the selection study [Qin24] and the LaMP benchmark [Salemi24, Zhong25]."""
