"""Times the network of TabICL v2 in a process of its own: ``python -m priorax.bench_tabicl SETTINGS``.

The network has the configuration its authors publish for the classifier of version 2 and random weights, so nothing is
downloaded; how long a forward pass takes does not depend on what the weights are. Its estimator's preparation of tables
is left out, which is in TabICL's favour. `priorax bench predict` starts this process where the package is installed, so
that torch and JAX never share one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

START = time.perf_counter()

# From the authors' training script for the classifier (github.com/soda-inria/tabicl, scripts/train_v2_clf_stage1.sh);
# all its other sizes are the defaults of the class.
V2 = {"row_rope_interleaved": False, "zero_init": False}


def tabicl_point(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the network by themselves, under the names `priorax.bench_predict.predict_point` uses.

    Args:
      settings: ``context``, ``columns``, ``queries``, ``classes``, ``seed``, ``repeats``, ``threads``; ``once`` stops
        after the first forward pass.

    Returns:
      ``process_s`` (since this process began: import torch, make the network, one pass), ``first_s`` (that pass), and,
      unless ``once``: ``fit_predict_s`` (context and queries in one pass, as its estimator predicts), ``predict_s`` and
      ``one_row_s`` (against the keys and values it keeps of a context), ``peak_mb``; ``version`` and ``parameters``.
    """
    import importlib.metadata

    import torch
    from tabicl._model.inference_config import InferenceConfig
    from tabicl._model.tabicl import TabICL

    from priorax import bench_predict, runtime

    s = settings
    torch.set_num_threads(s["threads"])
    torch.manual_seed(s["seed"])
    network = TabICL(**V2).eval()
    x, y, query = bench_predict.table(s["context"], s["columns"], s["queries"], s["classes"], s["seed"])
    x, y, query = (torch.from_numpy(part).float()[None] for part in (x, y, query))
    both = torch.cat([x, query], dim=1)
    # Single precision on a CPU, as its estimator chooses there.
    config = InferenceConfig()
    plain = {"device": "cpu", "use_amp": False, "use_fa3": False}
    config.update_from_dict({f"{part}_CONFIG": dict(plain) for part in ("COL", "ROW", "ICL")})

    def against_kept(rows: Any) -> Any:
        return network.forward_with_cache(X_test=rows, use_cache=True, store_cache=False, inference_config=config)

    with torch.inference_mode():
        start = time.perf_counter()
        answer = network(both, y, inference_config=config)
        end = time.perf_counter()
        if answer.shape != (1, s["queries"], s["classes"]) or not torch.isfinite(answer).all():
            asked = f"{s['queries']} rows of {s['classes']} finite logits"
            raise ValueError(f"TabICL answered an array of shape {tuple(answer.shape)}, not {asked}")
        point: dict[str, Any] = {"process_s": round(end - START, 3), "first_s": round(end - start, 3)}
        if s.get("once"):
            return point
        network.forward_with_cache(x, y, store_cache=True, inference_config=config)
        works: dict[str, Callable[[], Any]] = {
            "fit_predict_s": lambda: network(both, y, inference_config=config),
            "predict_s": lambda: against_kept(query),
            "one_row_s": lambda: against_kept(query[:, :1]),
        }
        for name, work in works.items():
            work()
            point[name] = bench_predict.timed(work, s["repeats"])
    return point | {
        "peak_mb": runtime.peak_memory_mb(),
        "version": importlib.metadata.version("tabicl"),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


if __name__ == "__main__":
    print(json.dumps(tabicl_point(json.loads(sys.argv[1]))))
