"""What `Options(ranks="all")` costs beside `ranks="main"`."""
