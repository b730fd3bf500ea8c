"""Tokenizer files for the tiny checkpoints: valid, complete (every byte has a token) and smaller than 300 ids.

Two kinds, as in published checkpoints: byte-level BPE (GPT-2 alphabet) and SentencePiece-style BPE with byte fallback.
"""
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a test.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

INST = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

TURNS = """{{ bos_token }}{%- for message in messages -%}
{{ '<|' + message.role + '|>\\n' }}{{ message.content | trim }}{{ eos_token if message.role == 'assistant' else '' }}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}"""

QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# Pairs joined in this order; each names two pieces that exist by then.
MERGES = ["h e", "Ġ t", "i n", "Ġ a", "Ġt he", "o n", "e r", "r e", "Ġ s", "o u", "in g", "a n", "an d"]
SP_MERGES = [m.replace("Ġ", "▁") for m in MERGES]


def byte_level(special, merges, split=None):
    """`special` get the ids after bytes and merges. `split`: a regex of its own before ByteLevel, as Qwen has."""
    vocab = {piece: i for i, piece in enumerate(sorted(ByteLevel.alphabet()))}
    pairs = [tuple(m.split(" ")) for m in merges]
    for a, b in pairs:
        vocab[a + b] = len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    if split:
        t.normalizer = normalizers.NFC()
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"),
                                                   ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        t.pre_tokenizer = ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    return t


def sentence_piece(merges):
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    pairs = [tuple(m.split(" ")) for m in merges]
    for piece in dict.fromkeys(["▁"] + [c for a, b in pairs for c in a + b] + [a + b for a, b in pairs]):
        vocab[piece] = len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    return t


def write(directory, kind, template_file=False):
    """Writes the tokenizer files of one checkpoint; returns (tokenizer, bos id or None, eos ids)."""
    directory = Path(directory)
    if kind == "mixtral":
        t, bos, eos, template = sentence_piece(SP_MERGES), "<s>", "</s>", INST
    elif kind == "qwen":
        t = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], MERGES, QWEN_SPLIT)
        bos, eos, template = None, "<|im_end|>", CHATML
    elif kind == "olmoe":
        t = byte_level(["<|padding|>", "<|endoftext|>"], MERGES)
        bos, eos, template = None, "<|endoftext|>", TURNS.replace("{{ bos_token }}", "")
    else:
        t = byte_level(["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"], MERGES[:7])
        t.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
            special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])
        bos, eos, template = "<|begin|>", "<|end|>", TURNS if kind == "llama" else CHATML
    t.save(str(directory / "tokenizer.json"), pretty=False)
    added = {str(i): {"content": a.content, "lstrip": a.lstrip, "normalized": a.normalized, "rstrip": a.rstrip,
                      "single_word": a.single_word, "special": a.special}
             for i, a in sorted(t.get_added_tokens_decoder().items())}
    config = {"add_bos_token": bos is not None, "added_tokens_decoder": added, "bos_token": bos,
              "chat_template": template, "clean_up_tokenization_spaces": False, "eos_token": eos,
              "model_max_length": 256, "pad_token": eos, "tokenizer_class": "PreTrainedTokenizerFast",
              "unk_token": "<unk>" if kind == "mixtral" else None}
    if template_file:
        (directory / "chat_template.jinja").write_text(config.pop("chat_template"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    ids = [t.token_to_id(eos)]
    if kind == "qwen":
        ids.append(t.token_to_id("<|endoftext|>"))
    return t, t.token_to_id(bos) if bos else None, ids
