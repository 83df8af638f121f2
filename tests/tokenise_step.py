"""The step of a datatrove pipeline that the guide shows, where a job of Slurm can import it."""

from datatrove.pipeline.base import PipelineStep

from uti.shards.run import tokenize_part


class Tokenise(PipelineStep):
    "Make every so-manieth shard, as a rank of a pipeline."

    name, type = "tokenise", "UTI"

    def __init__(self, manifest, out, n_shards, options):
        super().__init__()
        self.manifest, self.out, self.n_shards, self.options = manifest, out, n_shards, options

    def run(self, data=None, rank=0, world_size=1):
        for shard in range(rank, self.n_shards, world_size):
            tokenize_part(self.manifest, self.out, str(shard), **self.options)
        yield from ()
