"""All ranks of a job in one run: what each sees of itself, and what the recording one makes of it.

Data flows from `statistics.py` (each rank's worker) and `own_time.py` through `member.py` (a thread
of each rank) and `exchange.py` (torch.distributed's store) to `aggregate.py` and `straggler.py`
(the recording rank's); in a large job through one rank of each node (`fan_in.py`). docs/ranks.md
says what comes out.
"""
