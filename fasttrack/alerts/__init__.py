"""What is worth an alert, decided from rows and a clock; nothing here reads, sends or waits."""
