"""What is looked up once per run: rank, names, secrets to hide."""
