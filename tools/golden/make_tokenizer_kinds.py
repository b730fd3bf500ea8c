#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizer_kinds: small vocabularies in the form of each model family's files, and checksums of what the reference
packages (tokenizers, tiktoken, sentencepiece) make of the 2,000 strings of tests/fixtures/tokenizer; and `mixed`, tokenizers with
random parts, and `altered`, SentencePiece models that no trainer makes. The formats are in README.md.

With --real NAME=DIR the checksums of a real tokenizer.json are written, which are all that is kept of it: NAME.sums.
Run: make_tokenizer_kinds.py [--out DIR] [--real NAME=DIR ...]
"""
import argparse
import base64
import io
import json
import random
import struct
import tempfile
import zlib
from pathlib import Path

import sentencepiece
import tiktoken
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel

import random_tokenizers
import sample_text
from make_tokenizer_fixture import DATA as STRINGS, LLAMA3_SPLIT, plain, special, text_of

DATA = STRINGS.parent / "tokenizer_kinds"
CASES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CASES}|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CASES}"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL)
KIMI = (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{CASES}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{CASES}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*" + TAIL)
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*" + TAIL]


def byte_level(patterns, size, behaviour="isolated", invert=False):
    t = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(p), behaviour, invert) for p in patterns]
    t.pre_tokenizer = pre_tokenizers.Sequence(splits + [ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(sample_text.training_text(), trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=ByteLevel.alphabet(), max_token_length=16))
    return t


def deepseek_v3():
    t = byte_level(DEEPSEEK, 900)
    t.normalizer = normalizers.Sequence([])
    t.add_tokens([special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>"), plain("<think>"), plain("</think>"),
                  plain("<｜User｜>"), plain("<｜Assistant｜>"), plain("<｜tool▁calls▁begin｜>")])
    return t


def glm4_moe():
    t = byte_level([LLAMA3_SPLIT], 800, "removed", True)
    t.add_tokens([special(s) for s in ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")])
    t.add_tokens([plain("<think>"), plain("</think>"), plain("<tool_call>"), plain("<arg_key>")])
    return t


def minimax_m2():
    t = byte_level([LLAMA3_SPLIT], 700)
    t.add_tokens([special("]!p~["), special("]!d~["), special("]~!b["), special("[e~["), special("]~b]"),
                  plain("<minimax:tool_call>"), plain("</minimax:tool_call>"), plain("<think>")])
    return t


def gpt_oss():
    t = byte_level([O200K], 900)
    t.add_tokens([special(s) for s in ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
                                       "<|message|>", "<|call|>")])
    return t


def llama4():
    t = byte_level([O200K], 750)
    t.add_tokens([special(s) for s in ("<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>")])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(sample_text.training_text(), trainers.WordPieceTrainer(
        vocab_size=900, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], limit_alphabet=400))
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return t


def rules():
    """A small normalisation map: full-width forms, ligatures, Kana and their marks, blanks; some sources start with others."""
    pairs = [(chr(0xff01 + i), chr(0x21 + i)) for i in range(94)] + [("ﬁ", "fi"), ("ﬀ", "ff"), ("㍿", "株式会社"), ("①", "1"), ("\u00a0", " ")]
    pairs += [("e\u0301", "é"), ("e\u0308\u0301", "ë́"), ("ｶﾞ", "ガ"), ("ｶ", "カ"), ("\u3000", " "), ("\t", " "), ("\u200b", ""), ("\u00ad", "")]
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    return "".join(f"{code(a)}\t{code(b)}\n" for a, b in pairs)


def spm(**options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(line[:2000] for line in sample_text.training_text()), model_writer=out,
                                             hard_vocab_limit=False, minloglevel=5, **options)
    return out.getvalue()


def unigram(model):
    """The tokenizer.json that goes with a SentencePiece unigram model."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    t = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], 0, False))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
                                         normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.add_special_tokens([special("<s>"), special("</s>")])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


# ---- what the references say: (encode, decode) with decode(ids, skip_special) ----

def of_tokenizer(t):
    return (lambda text: t.encode(text, add_special_tokens=False).ids), (lambda ids, skip: t.decode(ids, skip_special_tokens=skip))


def of_sentencepiece(model):
    """Decoding is transformers': pieces through its decoders, not the package's own, which marks unknown pieces."""
    p = sentencepiece.SentencePieceProcessor(model_proto=model)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        stages.append(decoders.Strip(" ", 1, 0))
    last = decoders.Sequence(stages)

    def decode(ids, skip):
        return last.decode([p.id_to_piece(i) for i in ids if not (skip and proto.pieces[i].type in (2, 3))])
    return p.encode, decode


def of_tiktoken(encoding, specials):
    def decode(ids, skip):
        return encoding.decode_bytes([i for i in ids if not (skip and i in specials)]).decode("utf-8", "replace")
    return (lambda text: encoding.encode(text, allowed_special="all")), decode


def record(reference, text):
    """u16 count, u32 crc of the ids, u32 crc of the decoded text, u32 without special tokens."""
    encode, decode = reference
    ids = encode(text)
    sums = [zlib.crc32(struct.pack(f"<{len(ids)}i", *ids))] + [zlib.crc32(decode(ids, skip).encode()) for skip in (False, True)]
    return struct.pack("<H3I", len(ids), *sums)


def write_sums(directory, name, reference, strings):
    (directory / f"{name}.sums").write_bytes(b"".join(record(reference, text_of(s)) for s in strings))
    print(name)


def save(t, path):
    path.mkdir(exist_ok=True)
    data = json.loads(t.to_str())
    (path / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(path / "tokenizer.json"))


def kimi_k2(path):
    """tiktoken.model, with special tokens in tokenizer_config.json only. Returns the reference."""
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    hidden = [b for b in range(256) if b not in visible]
    byte = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    vocab = byte_level([LLAMA3_SPLIT], 900).get_vocab()
    ranks = {bytes(byte[c] for c in token): i for token, i in vocab.items()}
    n = len(ranks)
    named = {n: "[BOS]", n + 1: "[EOS]", n + 2: "<|im_end|>", n + 3: "<|im_user|>", n + 8: "<|im_middle|>", n + 10: "<|endoftext|>"}
    path.mkdir(exist_ok=True)
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])]
    (path / "tiktoken.model").write_bytes(b"".join(lines))
    (path / "config.json").write_text(json.dumps({"model_type": "kimi_k2"}) + "\n")
    decoder = {str(i): {"content": text, "special": i != n + 3, "lstrip": False, "normalized": False} for i, text in named.items()}
    (path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, "tokenizer_class": "TikTokenTokenizer"}) + "\n")
    specials = {text: i for i, text in named.items()}
    return of_tiktoken(tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=specials), set(named) - {n + 3})


def packed(model, raw, reference, numbers, strings):
    """u8 kind (0: tokenizer.json, 1: a SentencePiece model), u32 length, bytes; u16 strings; for each u16 number and a record."""
    rows = []
    for i in numbers:
        try:
            rows.append(struct.pack("<H", i) + record(reference, text_of(strings[i])))
        except BaseException:                               # the package panics or has no unknown token
            continue
    return struct.pack("<BI", model, len(raw)) + raw + struct.pack("<H", len(rows)) + b"".join(rows)


def altered(path, strings):
    """SentencePiece models of which some pieces are unused, some gone, so that others are made of what is no piece, and many scores equal."""
    out = []
    for seed in range(1, 100):
        rng = random.Random(seed)
        try:
            proto = sentencepiece_model_pb2.ModelProto.FromString(random_tokenizers.make_model(seed, 700)[1])
        except ValueError:
            continue
        unused, gone = rng.choice([0.05, 0.3, 0.7]), rng.choice([0, 0.05, 0.3])
        for i, p in enumerate(proto.pieces):
            if p.type == 1 and rng.random() < gone:
                p.piece = f"\u2603{i}\u2603"
            elif p.type == 1 and rng.random() < unused:
                p.type = 5
            elif p.type == 1 and rng.random() < 0.1:
                p.score = rng.choice([-1.0, -5.0, -20.0])
        raw = proto.SerializeToString()
        if len(raw) > 15000:
            continue
        out.append(packed(True, raw, of_sentencepiece(raw), rng.sample(range(len(strings)), 100), strings))
        if len(out) == 12:
            break
    (path / "altered").write_bytes(b"".join(out))
    print("altered", len(out), sum(map(len, out)))


def mixed(path, strings):
    out, count = [], 0
    for seed in range(1, 200):
        rng = random.Random(seed)
        model = seed % 6 == 0
        try:
            made = random_tokenizers.make_model(seed, 300)[1] if model else random_tokenizers.make(seed, 150)[1]
        except ValueError:
            continue
        raw = made if model else json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")).encode()
        if len(raw) > 9000:
            continue
        reference = of_sentencepiece(made) if model else of_tokenizer(made)
        out.append(packed(model, raw, reference, rng.sample(range(len(strings)), 60), strings))
        count += 1
        if count == 48:
            break
    (path / "mixed").write_bytes(b"".join(out))
    print("mixed", count, sum(map(len, out)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--real", nargs="*", default=[], metavar="NAME=DIR", help="only write the checksums of real tokenizers")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    strings = sample_text.strings()
    for real in args.real:
        name, path = real.split("=")
        write_sums(args.out, name, of_tokenizer(Tokenizer.from_file(str(Path(path) / "tokenizer.json"))), strings)
    if args.real:
        return
    for make in (deepseek_v3, glm4_moe, minimax_m2, gpt_oss, llama4, wordpiece):
        write_sums(args.out, make.__name__, of_tokenizer(save(make(), args.out / make.__name__)), strings)
    write_sums(args.out, "kimi_k2", kimi_k2(args.out / "kimi_k2"), strings)
    bpe = spm(model_type="bpe", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
              split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.98)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        tsv.write(rules())
        tsv.flush()
        uni = spm(model_type="unigram", vocab_size=1000, normalization_rule_tsv=tsv.name, character_coverage=0.98,
                  user_defined_symbols=["<mask>", "日本"])
    for name, model in (("mixtral", bpe), ("unigram_spm", uni)):
        (args.out / name).mkdir(exist_ok=True)
        (args.out / name / "tokenizer.model").write_bytes(model)
        (args.out / name / "tokenizer_config.json").write_text(json.dumps({"legacy": True, "add_bos_token": True, "bos_token": "<s>"}) + "\n")
        write_sums(args.out, name, of_sentencepiece(model), strings)
    write_sums(args.out, "unigram", of_tokenizer(save(unigram(uni), args.out / "unigram")), strings)
    mixed(args.out, strings)
    altered(args.out, strings)


if __name__ == "__main__":
    main()
