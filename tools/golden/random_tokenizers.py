"""Tokenizers with random parts: any model, normaliser, pre-tokeniser, decoder and added tokens that tokenizer.json can hold, trained on
a little text; and random SentencePiece models. Whoever compares another implementation with the packages draws from here.

make(seed) -> (kind, Tokenizer); make_model(seed) -> (options, bytes of a tokenizer.model), either may raise ValueError: the draw cannot
be trained. Some draws make the package itself panic on some texts; such texts say nothing.
"""
import io
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import sample_text

BEHAVIOURS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
PATTERNS = [r"\s+", r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}]+", r"\w+|\W", r"[aeiou]", r"(?<=\s)|(?=\p{Lu})", r"\b", r"\p{Han}+", r"$", r"^"]
BYTE_TOKENS = [f"<0x{b:02X}>" for b in range(256)]


def corpus(rng):
    lines = list(sample_text.training_text())
    return [rng.choice(lines) for _ in range(rng.randint(200, 1500))]


def pipeline(rng, draw, sequence, lengths):
    """None, one part, or a sequence of some."""
    n = rng.choice(lengths)
    return None if n == 0 else draw() if n == 1 else sequence([draw() for _ in range(n)])


def pre_tokenizer(rng):
    p, coin = pre_tokenizers, lambda: rng.random() < 0.5
    kinds = [
        lambda: p.ByteLevel(add_prefix_space=coin(), use_regex=coin()),
        lambda: p.Metaspace(replacement=rng.choice("▁_"), prepend_scheme=rng.choice(["always", "first", "never"]), split=coin()),
        lambda: p.Whitespace(), lambda: p.WhitespaceSplit(), lambda: p.BertPreTokenizer(), lambda: p.Digits(coin()),
        lambda: p.Punctuation(rng.choice(BEHAVIOURS)), lambda: p.CharDelimiterSplit(rng.choice(" ae-")),
        lambda: p.FixedLength(rng.randint(1, 7)),
        lambda: p.Split(rng.choice([" ", "e", "-", "er", "\n"]), rng.choice(BEHAVIOURS), coin()),
        lambda: p.Split(Regex(rng.choice(PATTERNS)), rng.choice(BEHAVIOURS), coin()),
    ]
    return pipeline(rng, lambda: rng.choice(kinds)(), p.Sequence, [0, 1, 1, 1, 2, 3])


def normalizer(rng):
    n, coin = normalizers, lambda: rng.random() < 0.5
    kinds = [
        lambda: n.NFC(), lambda: n.NFD(), lambda: n.NFKC(), lambda: n.NFKD(), lambda: n.Lowercase(), lambda: n.StripAccents(),
        lambda: n.Strip(coin(), coin()), lambda: n.Replace(rng.choice([" ", "e", "ss", "\n"]), rng.choice(["▁", "", "xx"])),
        lambda: n.Replace(Regex(rng.choice([r" {2,}", r"\s", r"\p{M}", r"[0-9]+"])), rng.choice([" ", "▁", ""])),
        lambda: n.Prepend(rng.choice(["▁", "ab"])), lambda: n.Nmt(), lambda: n.ByteLevel(),
        lambda: n.BertNormalizer(coin(), coin(), rng.choice([None, True, False]), coin()),
    ]
    return pipeline(rng, lambda: rng.choice(kinds)(), n.Sequence, [0, 0, 1, 1, 2, 3])


def decoder(rng):
    d, coin = decoders, lambda: rng.random() < 0.5
    kinds = [
        lambda: d.ByteLevel(), lambda: d.Fuse(), lambda: d.ByteFallback(), lambda: d.BPEDecoder(rng.choice(["</w>", "e"])),
        lambda: d.Replace(rng.choice(["▁", "e", "Ġ", "er"]), rng.choice([" ", "", "x"])),
        lambda: d.Strip(rng.choice(" ae"), rng.randint(0, 2), rng.randint(0, 2)),
        lambda: d.Metaspace(replacement=rng.choice("▁_"), prepend_scheme=rng.choice(["always", "first", "never"])),
        lambda: d.WordPiece(rng.choice(["##", "▁"]), coin()), lambda: d.CTC(rng.choice(["e", "<pad>"]), rng.choice(["|", "a"]), coin()),
    ]
    return pipeline(rng, lambda: rng.choice(kinds)(), d.Sequence, [0, 1, 1, 2, 3])


def untrained(rng, kind, size):
    some_bytes = BYTE_TOKENS if rng.random() < 0.3 else []
    if kind == "BPE":
        marks = {"continuing_subword_prefix": rng.choice([None, None, "##", "@"]), "end_of_word_suffix": rng.choice([None, None, "</w>"])}
        marks = {k: v for k, v in marks.items() if v}
        unk = {"unk_token": "<unk>"} if rng.random() < 0.5 else {}
        model = models.BPE(fuse_unk=rng.random() < 0.5, byte_fallback=rng.random() < 0.4, ignore_merges=rng.random() < 0.3, **marks, **unk)
        return Tokenizer(model), trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=["<unk>"] + some_bytes,
                                                     limit_alphabet=min(size // 2, rng.randint(30, 300)), **marks)
    if kind == "Unigram":
        return Tokenizer(models.Unigram()), trainers.UnigramTrainer(vocab_size=size, show_progress=False, unk_token="<unk>",
                                                                    special_tokens=["<unk>"] + some_bytes)
    if kind == "WordPiece":
        model = models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=rng.choice([5, 100]))
        return Tokenizer(model), trainers.WordPieceTrainer(vocab_size=size, show_progress=False, special_tokens=["[UNK]"],
                                                           limit_alphabet=size // 2, continuing_subword_prefix=rng.choice(["##", "_"]))
    model = models.WordLevel(unk_token="<unk>")
    return Tokenizer(model), trainers.WordLevelTrainer(vocab_size=size, show_progress=False, special_tokens=["<unk>"])


def make(seed, size=None):
    rng = random.Random(seed)
    kind = rng.choice(["BPE", "BPE", "Unigram", "WordPiece", "WordLevel"])
    t, trainer = untrained(rng, kind, size or rng.randint(80, 900))
    normal, pre, last = normalizer(rng), pre_tokenizer(rng), decoder(rng)
    if normal:
        t.normalizer = normal
    if pre:
        t.pre_tokenizer = pre
    try:
        t.train_from_iterator(corpus(rng), trainer)
    except Exception as e:
        raise ValueError(str(e)) from None
    if kind == "Unigram" and rng.random() < 0.5:
        data = json.loads(t.to_str())
        data["model"]["byte_fallback"] = True
        t = Tokenizer.from_str(json.dumps(data))
    if last:
        t.decoder = last
    if rng.random() < 0.7:
        flags = lambda: {f: rng.random() < 0.3 for f in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        texts = ["<|im_end|>", "<s>", "</s>", "river", "ver", "  ", "<|endoftext|>", "café", "I'm", "\n\n", "A", "E"]
        t.add_tokens([AddedToken(text, **flags()) for text in rng.sample(texts, rng.randint(1, 5))])
    i = rng.randrange(t.get_vocab_size())
    token = t.id_to_token(i)
    if rng.random() < 0.4 and token and token.strip() and not set(token) & set("$ :"):
        t.post_processor = rng.choice([
            lambda: processors.TemplateProcessing(single=[token, "$A", token], special_tokens=[(token, i)]),
            lambda: processors.BertProcessing((token, i), ("x", 3)), lambda: processors.RobertaProcessing((token, i), ("x", 3))])()
    return kind, t


def make_model(seed, size=None):
    import sentencepiece
    rng, coin = random.Random(seed), lambda: rng.random() < 0.5
    options = dict(
        model_type=rng.choice(["bpe", "unigram"]), vocab_size=size or rng.randint(400, 1500), character_coverage=rng.choice([0.98, 0.995, 1.0]),
        byte_fallback=coin(), normalization_rule_name=rng.choice(["identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf"]),
        add_dummy_prefix=rng.random() < 0.7, remove_extra_whitespaces=coin(), split_digits=coin(), split_by_whitespace=rng.random() < 0.8,
        treat_whitespace_as_suffix=rng.random() < 0.2, allow_whitespace_only_pieces=coin(), split_by_unicode_script=coin(),
        user_defined_symbols=rng.choice([[], [], ["<x>", "▁▁", "ver", "日本"], ["<mask>", "\n\n", "  "]]),
        control_symbols=rng.choice([[], ["<ctl>"]]))
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(line[:2000] for line in corpus(rng)), model_writer=out,
                                                 hard_vocab_limit=False, minloglevel=5, **options)
    except Exception as e:
        raise ValueError(str(e)) from None
    return options, out.getvalue()
