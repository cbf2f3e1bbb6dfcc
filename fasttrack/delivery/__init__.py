"""Code that carries the journal to a backend, in a process of its own. Never imports torch."""
