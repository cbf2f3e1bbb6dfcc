"""MLflow: a tracking server, a database, or files."""
