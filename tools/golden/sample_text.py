"""2,000 byte strings that a tokenizer must get right, and a training text for the small tokenizers. All from a fixed seed.

Everything is made here from word lists and code snippets; nothing is quoted. Code points are limited to those assigned in
Unicode 13 (and a few that stay unassigned for good), because regex engines disagree about newer ones.
"""
import random
import unicodedata

WORDS = {
    "english": "the river was quiet and nobody spoke of what they'd seen before winter; every engineer knows that tokens per "
               "second are only half of it, don't you? I've we'll she's it'd they're I'm can't Won't SHE'LL I'LL YOU'RE".split(),
    "german": "Straße über Größe Mädchen Fußgängerübergänge Verschlüsselung läuft schön Öl Äpfel weiß".split(),
    "french": "où l'été s'achève déjà, ça naïve œuvre garçon Noël qu'aujourd'hui français".split(),
    "spanish": "¿qué mañana año señor corazón ¡vamos! también pingüino niño".split(),
    "polish": "zażółć gęślą jaźń łódź ćma źdźbło święto żółw".split(),
    "turkish": "İstanbul ışık güneş çocuk şehir öğretmen ağaç IĞDIR".split(),
    "vietnamese": "tiếng Việt đường phố nước người không được những".split(),
    "russian": "быстрая река течёт через лес и никто не знает куда она идёт ночью объём подъезд".split(),
    "ukrainian": "їжак ґанок її щастя зв'язок об'єкт під'їзд".split(),
    "greek": "Η θάλασσα είναι ήρεμη σήμερα και ο άνεμος φυσάει ΰστερα λόγος ἀρχὴ ᾧ".split(),
    "armenian": "բարեւ աշխարհ գիրք ջուր".split(),
    "georgian": "გამარჯობა მსოფლიო წიგნი".split(),
    "arabic": "السلام عليكم كيف حالك اليوم مَرْحَبًا بِكُمْ ٣٤٥ ١٢ لغة العربية ﷺ".split(),
    "persian": "می‌خواهم کتاب‌ها را بخوانم ۱۲۳ نمی‌دانم".split(),
    "hebrew": "שלום עולם מה שלומך היום בְּרֵאשִׁית צה״ל".split(),
    "devanagari": "नमस्ते दुनिया क्षत्रिय हिन्दी में १२३ कार्य श्री विद्यार्थी".split(),
    "bengali": "বাংলা ভাষা পৃথিবী ধন্যবাদ ১২৩".split(),
    "tamil": "தமிழ் மொழி வணக்கம் நன்றி".split(),
    "telugu": "తెలుగు భాష నమస్కారం".split(),
    "thai": "สวัสดีชาวโลก ภาษาไทย น้ำ เที่ยว ๑๒๓ ประเทศ".split(),
    "lao": "ສະບາຍດີ ພາສາລາວ".split(),
    "khmer": "ភាសាខ្មែរ សួស្តី".split(),
    "burmese": "မြန်မာ ဘာသာ မင်္ဂလာပါ".split(),
    "tibetan": "བོད་སྐད་ བཀྲ་ཤིས་".split(),
    "amharic": "ሰላም ዓለም አማርኛ".split(),
    "cherokee": "ᏣᎳᎩ ᎣᏏᏲ ꭶꮃꮙꮧ".split(),
    "chinese": "今天 天气 很好 我们 去 河边 散步 模型 推理 速度 一二三 〇 繁體字 龍 𠮷野 𡃁".split(),
    "japanese": "こんにちは 世界 トークン カタカナ ひらがな 漢字 が゙ ｶﾞ ー 々 ヶ月 東京都".split(),
    "korean": "안녕하세요 세계 한국어 토큰 빠른 강 ᄒ\u1161\u11ab 가각".split(),
    "mongolian": "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ\u180e".split(),
}
EMOJI = ["😀", "👩‍👩‍👧‍👦", "👨🏽‍💻", "🏳️‍🌈", "🇩🇪🇯🇵", "👍🏿", "❤️", "☺", "🧑🏻‍🤝‍🧑🏾", "1️⃣", "#️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🫠", "✈︎", "⌚️", "🤷🏼‍♀️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u0085",
          "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1f", "\u202f", "\u180e", "\ufeff", "\u1680", " " * 9, "\t\t\t", "\n" * 5]
MARKS = ["\u0301", "\u0308\u0301", "\u0327", "\u20dd", "\u034f", "\u200d", "\u200c", "\u200e", "\u200f", "\u202e", "\u2066", "\u2069",
         "\ufe0f", "\u0360", "\u0345", "\u0e33", "\u093f"]
CODE = [
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];  // dot\n}\n",
    "def f(x: int = 3, *args, **kw) -> dict[str, int]:\n    return {f\"{k!r}\": v for k, v in kw.items() if v != x}\n",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))\nint main(void){printf(\"%5.2f\\n\", 1e-7);return 0;}",
    "fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<_> = s.chars().rev().collect();\n    Ok(())\n}",
    "SELECT name, COUNT(*) AS n FROM t WHERE id IN (1,2,3) GROUP BY name HAVING n >= 10 ORDER BY 2 DESC;",
    "const f = async ({a, ...b}) => (await fetch(`/x/${a}?y=${b?.c ?? 0}`)).json();",
    "<div class=\"a b\" data-x='1'>&nbsp;<!-- note --></div>", "{\"a\": [1, 2.5e10, null, true], \"b\": \"\\u00e9\\n\"}",
    "$ grep -rn 'x' . | awk -F: '{print $1}' | sort -u > /dev/null 2>&1 && echo \"done!\"",
    "\\begin{equation}\n  \\sum_{i=1}^{n} x_i^2 \\leq \\frac{1}{2}\n\\end{equation}", "func (s *S) Do(ctx context.Context) (err error) {\n\tdefer s.mu.Unlock()\n}",
    "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n- [ ] todo\n- [x] done\n\n```c\nint x;\n```", "x86_64-linux-gnu-gcc -O3 -march=native -fno-strict-aliasing",
    "    if a:\n        if b:\n            pass\n\n\n        else:\n            raise", "class A { public:   ~A() noexcept; template<typename T> void g(T&&); };",
    "0x1F 0b1010 1_000_000 3.14159 1e-9 -0.0 NaN", "a->b->c[0]::d<e>(f)!=g&&h||!i", "\\d+(?:\\.\\d*)?|[^\\s\\p{L}]{2,3}(?!x)",
]
URLS = ["https://example.org/a/b?c=d&e=%20f#g-1", "ftp://user:pass@10.0.0.1:2121/x.tar.gz", "mailto:someone+tag@example.com",
        "www.example.co.uk/path_(with)_parens", "file:///C:/Program%20Files/x.txt", "git@example.com:a/b.git"]
DIGITS = ["0", "12", "123", "1234", "12345678901234567890", "3.14", "1,000,000", "2024-02-29T23:59:59Z", "½ ¾ ²³ Ⅷ ④ ㊷ 〇", "१२३ ٣٤ ๕๖ 𝟙𝟚",
          "007", "v1.2.3-rc4", "+49 (0)30 1234567", "#123", "a1b2c3", "1 2 3", "߁߂", "৪৫", "௧௨", "𐄇", "Ⅻ12", "1̸2"]
CONTRACTIONS = ["I'LL", "i'll", "DON'T don't Don'T", "we'Ve", "'s", "'S's", "it''s", "'tis", "o'clock", "'ſ", "x'ſy", "'RE'Re're", "rock'n'roll",
                "I’ll", "we’re", "'d'M'm", " 's", "\n'll", "'", "''", "'12", "1's", "é's", "日's",
                "I'LLbe", "we'REgone", "it'Sa", "'ſa", "'Tx'Vey'Mz", "x'DIR", "I'SELECT", "a'DIR'SELECT b"]
WHOLE_WORDS = ["driver", "rivers", "the river", "river", "river's", "_river_", "1river", "riveré", "ériver", "a river.river", "river river", "-river-", "字river", "ver", "a ver b", "ver.", "verver", "over ver",
               "café", "cafe\u0301", "cafe\u0301s", "un café noir", "un cafe\u0301 noir", "cafe\u0301\u0301", "caf\u00e9\u0301"]
SINGLES = ["", " ", "a", "\n", "é", "é", "Å", "Å", "ﬁ", "㍿", "Ω", "한", "가", "が", "ｶﾞ", "ẛ̣", "\u0344", "\u0958",
           "\ufb2c", "\u2126", "\U0001d15e", "\x00", "\x7f", "\ufffd", "\ufffe", "\U0010ffff", "\ue000", "\u0378", "Ǆ", "ß", "ẞ", "ı", "İ", "ſ", "K"]
SPECIAL_TEXT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<|begin_of_text|>", "<|eot_id|>", "[INST]", "[/INST]",
                "<|im_start|", "im_end|>", "<|IM_START|>", "< |im_end|>", "<0x0A>", "<0xff>", "<repo_name>", "<filename>", "<tool_call>", "</tool_call>",
                "|||IP_ADDRESS|||", "<|padding|>", "<｜User｜>", "<mask>", "<word>", "<|reserved_special_token_0|>", "▁", "Ġ", "Ċ", "##ing"]
BROKEN = [b"\xff", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xf0\x9f\x98\xf0\x9f\x98\x80", b"\x80\x80", b"\xc0\xaf",
          b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xb0\x80\xed\xa0\xbd", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"\xf0\x80\x80\xaf",
          b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf", b"\xef\xbf\xbd", b"\xf1\x80\x80", b"\xc2\x00", b"a\xe9b", b"\xd0\xd0\xd0", b"\xf5\x80", b"\xe2\x28\xa1"]


def assigned(rng):
    """One random code point that every engine classes alike: assigned in Unicode 13, or a plane chosen at random."""
    blocks = [(0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x5ff), (0x600, 0xfff), (0x1000, 0x1fff), (0x2000, 0x2bff), (0x2e80, 0xabff),
              (0xac00, 0xd7a3), (0xf900, 0xffef), (0x10000, 0x1ffff), (0x20000, 0x2a6d6)]
    while True:
        c = chr(rng.randint(*rng.choice(blocks)))
        age_known = unicodedata.category(c) not in ("Cn", "Cs", "Co")
        if age_known and not newer_than_13(ord(c)):
            return c


def newer_than_13(cp):
    """Blocks and ranges that Unicode 14 added (what Python's table knows beyond 13). Coarse on purpose."""
    ranges = [(0x061d, 0x061d), (0x0870, 0x089f), (0x08b5, 0x08b5), (0x08c8, 0x08d2), (0x0c3c, 0x0c3c), (0x0c5d, 0x0c5d), (0x0cdd, 0x0cdd),
              (0x170d, 0x171f), (0x180f, 0x180f), (0x1ac1, 0x1ace), (0x1b4c, 0x1b7e), (0x1dfa, 0x1dfa), (0x20c0, 0x20c0),
              (0x2c2f, 0x2c5f), (0x2e53, 0x2e5d), (0x9ffd, 0x9fff), (0xa7c0, 0xa7f4), (0xfbc2, 0xfbc2), (0xfd40, 0xfdff),
              (0x10570, 0x107ff), (0x10f70, 0x10faf), (0x11070, 0x11075), (0x110c2, 0x110c2), (0x116b9, 0x116b9), (0x11740, 0x1174f),
              (0x11ab0, 0x11abf), (0x12f90, 0x12fff), (0x16a70, 0x16acf), (0x1aff0, 0x1b122), (0x1cf00, 0x1cfcf), (0x1d1e9, 0x1d1ff),
              (0x1df00, 0x1dfff), (0x1e290, 0x1e2bf), (0x1e7e0, 0x1e7ff), (0x1f6dd, 0x1f6df), (0x1f7f0, 0x1f7f0), (0x1f979, 0x1f979),
              (0x1f9cc, 0x1f9cc), (0x1fa7b, 0x1faff), (0x2a6de, 0x2a6df), (0x2b735, 0x2b738)]
    return any(a <= cp <= b for a, b in ranges)


def sentence(rng, language, words):
    parts = [rng.choice(WORDS[language]) for _ in range(words)]
    text = ("" if language in ("chinese", "japanese", "thai", "lao", "khmer", "burmese") and rng.random() < 0.7 else " ").join(parts)
    return text + rng.choice(["", ".", "!", "?", "…", "。", "؟", "।", ")", " -", ":", ";\n", "\n", " "])


def mixed(rng):
    """Pieces of everything glued together: where pre-tokenizers go wrong is at the seams."""
    pools = [EMOJI, SPACES, MARKS, DIGITS, CONTRACTIONS, URLS, SPECIAL_TEXT, SINGLES]
    out = []
    for _ in range(rng.randint(2, 7)):
        kind = rng.random()
        if kind < 0.45:
            out.append(rng.choice(WORDS[rng.choice(list(WORDS))]))
        elif kind < 0.6:
            out.append(rng.choice(SPACES))
        else:
            out.append(rng.choice(rng.choice(pools)))
    return "".join(out)


def strings(count=2000, seed=2024):
    rng = random.Random(seed)
    out = []
    add = lambda text: out.append(text if isinstance(text, bytes) else text.encode())
    for group in (SINGLES, EMOJI, SPACES, DIGITS, CONTRACTIONS, URLS, SPECIAL_TEXT, CODE, WHOLE_WORDS, BROKEN):
        for item in group:
            add(item)
    for language in WORDS:
        for words in (1, 3, 6):
            add(sentence(rng, language, words))
    for special in SPECIAL_TEXT:
        add(f"hello {special} world")
        add(f"a{special}b")
        add(f"{special}\n{special} {special}")
    for a in SPACES:                                        # every blank before a letter, a digit, a mark, a blank and the end
        for after in ("x", "7", "!", "\u0301", "字", "'s"):
            add("w" + a + after)
        add("x" + a + rng.choice(SPACES))
    for mark in MARKS:
        add("e" + mark + "a " + mark + "1" + mark)
        add("".join(c + mark for c in "zalgo"))
    for i in range(0x20):
        add("a" + chr(i) + "b" + chr(i))
    for _ in range(120):
        raw = bytearray(mixed(rng).encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(raw))
            raw[at:at] = rng.choice(BROKEN)
        if rng.random() < 0.3:
            raw = raw[:rng.randint(0, len(raw))]
        add(bytes(raw))
    for _ in range(60):
        add(bytes(rng.randrange(256) for _ in range(rng.randint(1, 12))))
    for text in ("a" * 1500, "Donaudampfschifffahrts" * 40, "ab " * 300, "字" * 500, " " * 700, "\n" * 300, "9" * 900, "=" * 600,
                 "x\u0301" * 250, "👩‍👩‍👧" * 60, "<|im_end|>" * 40, "aA1 \n" * 150, "\u0308" * 300, "the" * 400, "'s" * 200,
                 "\x00" * 64, "abcdefghijklmnopqrstuvwxyz" * 30, " a" * 400):
        add(text)
    while len(out) < count - 350:
        kind = rng.random()
        if kind < 0.35:
            add(mixed(rng))
        elif kind < 0.7:
            add(" ".join(sentence(rng, rng.choice(list(WORDS)), rng.randint(1, 5)) for _ in range(rng.randint(1, 2))))
        elif kind < 0.8:
            code = rng.choice(CODE)
            at = rng.randrange(len(code))
            add(code[at:at + rng.randint(5, 60)] + rng.choice(SPACES))
        else:
            add("".join(rng.choice(["a", "B", "1", " ", "\n", "'", ".", "é", "字", "_"]) for _ in range(rng.randint(1, 16))))
    while len(out) < count:
        add("".join(assigned(rng) for _ in range(rng.randint(1, 10))))
    assert len(out) == count
    return out


def training_text(seed=7, lines=6000):
    """Lines to train the small tokenizers on; other draws than `strings`, so those hold unseen text."""
    rng = random.Random(seed)
    for _ in range(lines):
        kind = rng.random()
        if kind < 0.55:
            yield sentence(rng, "english", rng.randint(3, 9))
        elif kind < 0.75:
            yield sentence(rng, rng.choice(list(WORDS)), rng.randint(2, 6))
        elif kind < 0.9:
            yield rng.choice(CODE)
        else:
            yield mixed(rng)
