"""The calls whose files are kept here as each former version left them, and the way to keep those of one more:

python -m tests.former.calls tests/former/files/<commit>
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server

TEXTS = ["A wonderful lamp.", "It broke, terrible.", "A wonderful lamp.", None]
ROWS = pd.DataFrame({"text": TEXTS, "id": [7, 8, 9, 10]})
LABELS = ["positive", "negative"]
#: What stands in the files for the address of a server that was another each time.
PLACE = "http://127.0.0.1:1/v1"
#: As its answer is no label, it is asked for once more.
NO_LABEL = {"model": "m", "choices": [{"message": {"content": '{"label":"hm"}'}, "finish_reason": "stop"}]}

chat = partial(
    po.process_dataframe, ROWS, "Say {text}", model="gpt-4o-mini", system="Be brief.", metadata=["id"], temperature=1.0
)
responses = partial(po.process_dataframe, ROWS, "text", model="gpt-4o-mini", endpoint="responses")
embeddings = partial(po.embed_dataframe, ROWS, "text", model="text-embedding-3-small", dimensions=8)
labels = partial(
    po.label_dataframe, ROWS, "Is it happy? {text}", labels=LABELS, model="gpt-4o-mini", samples=2, temperature=0.5
)
repaired = partial(po.label_dataframe, ROWS, "text", labels=LABELS, model="gpt-4o-mini", repair=True)
batch = partial(po.process_dataframe, ROWS, "text", model="gpt-4o-mini")
FRAMES = {"chat": chat, "responses": responses, "embeddings": embeddings, "labels": labels, "repaired": repaired}


def ray_rows() -> Any:
    import ray.data

    return ray.data.from_items(ROWS[:3].to_dict("records"), override_num_blocks=2)


dataset = partial(po.process_dataset, prompt="Say {text}", model="gpt-4o-mini", workers=1)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with simulator.serve(max_requests_per_minute=None, answer_tokens=8, batch_speed=5 * 86_400) as server:
        with po.Client(server.base_url) as client:
            make(folder, server, client)
            make_ray(folder, client)
        for path in folder.rglob("*"):
            if path.suffix == ".lock":
                path.unlink()
            elif path.is_file():
                path.write_bytes(path.read_bytes().replace(server.base_url.encode(), PLACE.encode()))


def make(folder: Path, server: Server, client: po.Client) -> None:
    given: dict[str, Any] = {"client": client, "progress": False}
    for name, call in FRAMES.items():
        if name == "repaired":
            server.script([{"body": NO_LABEL}])
        out = call(save_to=folder / f"{name}.jsonl", **given)
        if name == "labels":
            po.save(out, folder / "labels.csv")
            po.review(out, text="text", save_to=folder / "labels.review.jsonl").correct(1, "negative", note="Yes.")
    lines = [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]} for text in TEXTS[:2]]
    lines[0]["metadata"] = {"id": 7}
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    po.process_api_requests_from_file(folder / "requests.jsonl", folder / "results.jsonl", client=client)
    batch(lane=po.BatchLane(poll_seconds=0.02), save_to=folder / "batch.jsonl", **given)
    server.set(batch_speed=1.0)
    batch(lane=po.BatchLane(wait=False), save_to=folder / "waiting.jsonl", **given)


def make_ray(folder: Path, client: po.Client) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    dataset(ray_rows(), save_to=folder / "dataset", client=client, progress=False).take_all()
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
