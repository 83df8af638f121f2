"""Break a folder of shards on purpose, with every hash made to fit."""

import json

import pyarrow.parquet as pq

from uti.files import digest
from uti.shards.shard import write_shard


def refit(folder, name, **known):
    "Make every hash of a shard fit what lies there."
    data, path = json.loads((folder / "dataset.json").read_text()), folder / f"{name}.parquet"
    side = next(side for side in data["shards"] if f"shard-{side['shard']:05d}" == name)
    side |= {**known, "sha256": digest(path), "bytes": path.stat().st_size}
    for sum_of in ("rows", "tokens"):
        data[sum_of] = sum(side[sum_of] for side in data["shards"])
    (folder / "dataset.json").write_text(json.dumps(data))


def edit(folder, change, name="shard-00000", footer=None):
    "Change the rows of a shard, and write it as if it had always been so."
    path = folder / f"{name}.parquet"
    said = {k.decode(): v.decode() for k, v in pq.ParquetFile(path).metadata.metadata.items()}
    rows = pq.read_table(path).to_pylist()
    change(rows)
    written = write_shard(path, rows, {**said, **(footer or {})})
    refit(folder, name, **written)
