"""What a training script has imported once it trains, for forks that run one as it stands.

`torch.optim` loads torch's compiler where the first optimizer is made, for a second of CPU;
scikit-learn, pandas with it, takes more than one, and what shards and saves a model another.
"""

from __future__ import annotations

import importlib
import os
from unittest.mock import patch

SETS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that these imports set, for a script that imports them too."""
_MODULES = (
    *("support.trackers", "torch._dynamo", "torch.distributed.checkpoint.state_dict"),
    *("torch.distributed.fsdp", "pyarrow", "sklearn.datasets", "sklearn.model_selection"),
)

with patch.dict(os.environ, JE_ARROW_MALLOC_CONF="background_thread:false"):  # else pyarrow has one
    for _name in _MODULES:
        importlib.import_module(_name)
