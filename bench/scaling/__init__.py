"""How many ranks the recording one can hear with `Options(ranks="all")`."""
