"""MTEB's own tasks (``mteb`` 2), with data from the disk where there is no network; the extra ``gecko[mteb]``."""
