"""Writes tests/fixtures/rope.jsonl: the frequencies that transformers computes for scaled rotary embeddings.

One JSON object per line: `config` (a whole config.json of model_type llama), `frequencies` (float32 radians per position, one per
pair) and `amplitude` (what cosines and sines are multiplied by)."""
import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "rope.jsonl"
SIZES = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 300, "intermediate_size": 96}
CASES = [  # theta, head_dim, max_position_embeddings, scaling
    (1e4, 64, 8192, {"rope_type": "linear", "factor": 4.0}),
    (5e5, 128, 131072, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 8192}),
    (5e5, 64, 131072, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192}),
    (1e6, 128, 131072, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    (1e4, 64, 163840, {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
                       "mscale": 1.0, "mscale_all_dim": 1.0}),
    (1e4, 64, 163840, {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707,
                       "mscale_all_dim": 1.3}),
    (5e4, 64, 131072, {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1.0,
                       "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
    (1.5e5, 64, 131072, {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
                         "beta_slow": 1.0, "truncate": False}),
    (1e4, 12, 64, {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 4,
                   "attention_factor": 0.75}),
    (1e4, 12, 64, {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64}),
    (1e4, 16, 96, {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 32, "truncate": False}),
    (1e4, 16, 96, {"rope_type": "yarn", "factor": 3.0}),
]


def main():
    lines = []
    for theta, head, positions, scaling in CASES:
        config = dict(SIZES, head_dim=head, max_position_embeddings=positions, rope_theta=theta, rope_scaling=scaling)
        seen = json.loads(json.dumps(config))
        c = LlamaConfig(**{k: v for k, v in seen.items() if k != "model_type"})
        frequencies, amplitude = ROPE_INIT_FUNCTIONS[c.rope_parameters["rope_type"]](c, torch.device("cpu"))
        lines.append(json.dumps({"config": config, "frequencies": frequencies.tolist(), "amplitude": amplitude}))
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
