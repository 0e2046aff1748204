"""``python -m gecko``, and ``torchrun --nproc-per-node 4 -m gecko``: the command line in one process or in several."""

import os

from gecko.cli import app

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from gecko.train.processes import run_together

        run_together(app)
    else:
        app()
