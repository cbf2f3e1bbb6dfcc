"""How alerts judge healthy runs, how soon they see trouble, and what a row costs."""
