"""Ways to look at runs: pictures and tables, made from `runs` and `journal` only."""
