#!/usr/bin/env python3
"""Trains small tokenizers of every kind with Hugging Face `tokenizers` and writes what they make of hard texts.

    pip install tokenizers==0.23.3 && make_goldens.py

Writes one <name>.json (a tokenizer.json) per tokenizer and goldens.json: {"texts": [...], "cases": {name: {"ids": [[...], ...],
"special": [...], "decoded": [...]}}}. "special" is the encoding of texts[0] with special tokens; a null in "decoded" says that
decoding gives the text back. The texts are public domain (Austen, Carroll, the Universal Declaration of Human Rights).
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
ALICE = ("Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice "
         "she had peeped into the book her sister was reading, but it had no pictures or conversations in it, 'and what is the use "
         "of a book,' thought Alice 'without pictures or conversation?' So she was considering in her own mind (as well as she "
         "could, for the hot day made her feel very sleepy and stupid), whether the pleasure of making a daisy-chain would be worth "
         "the trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.\n\n"
         "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.\n"
         "I'm sure it's what they'd want; we've seen 1,234 of them in 1813, and 42 more in 2026. DON'T they'll you're he'll.\n")
RIGHTS = ["All human beings are born free and equal in dignity and rights.",
          "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
          "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
          "Все люди рождаются свободными и равными в своем достоинстве и правах.",
          "人人生而自由，在尊严和权利上一律平等。",
          "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
          "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
          "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
          "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
          "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
          "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ"]
CODE = "def add(a, b):\n    return a + b\n\nfor i in range(10):\n\tprint(i, add(i, 2))\n"
CORPUS = [ALICE, CODE] + RIGHTS

TEXTS = [
    "Hello there!", "", " ", "  ", "\n", "\t", "a", " a", "a ", "  a  b  ", ALICE[:200], CODE, *RIGHTS,
    "I'm, we'Ve, THEY'LL, 'tis; 'sx ''s 'ſ don’t", "👩‍👩‍👧‍👦 🏳️‍🌈 🇯🇵 ✨🔥 👍🏽", "e\u0301 vs \u00e9, A\u030a vs \u212b, \ufb01 \u00bd \u2460",
    "line one\r\nline two\r\n\r\n  line three\n\n\n   \n end ", "tabs\t\tand   spaces    \t mixed \u3000ideographic\u00a0nbsp",
    "1 12 123 1234 12345 1,234,567.89 ١٢٣ १२३ ²³ Ⅷ ½", "x" * 300, "ab" * 200 + "é" * 100, "\x00\x01\x02\x7f \x85 \u200b\u200d\ufeff \u2028",
    "<s>special <|user|>inside</s> <s></s><|user|> text <pad>x <mask> y<mask>z word <WORD> WORDWORD a WORD b", "▁already ▁▁marked▁ _under_",
    "https://example.org/a?b=c&d=%20#frag user@host.tld C:\\x\\y", "İstanbul ΑΣ ß ẞ ǅ", "¿Qué? ¡Sí! «oui» “quotes” — … ‚low‘",
    "a-b--c -d- 12-34 - --", "\ud7ff\ue000\U0010ffff\U0001f600", "ﬀ ŉ ß", "한국어 각 ᄀ각", "word\nword2\n\nword3 4\n5", " \n \n a \r b\r\rc", "\u32ff x\u07fdy \U00010781 \u0afa",
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
TEKKEN = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SEED_CODER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
EAST_ASIAN = "[一-龥ࠀ-一가-퟿]+"
# Letters that have case, spelled by number: some of them change when a text is composed.
CASED = ("\\s?["
         "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF"
         "\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5"
         "\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA"
         "\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45"
         "\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE"
         "\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102"
         "\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139"
         "\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3"
         "\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06"
         "\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3"
         "\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF"
         "\U0001E900-\U0001E943"
         "]+")
DEEPSEEK3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
             "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
SPECIALS = ["<s>", "</s>", "<|user|>", "<pad>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def byte_level(pre, normalizer=None, ignore_merges=False, size=400, post=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.post_processor = post or processors.ByteLevel(trim_offsets=False)
    return t


def split_then_bytes(*patterns):
    """Splits at regular expressions, or other steps, one after the other, then the bytes."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") if isinstance(p, str) else p for p in patterns] +
                                   [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def with_bytes(t, spec_edit):
    """Puts the 256 byte tokens behind the vocabulary and turns byte_fallback on."""
    spec = json.loads(t.to_str())
    spec_edit(spec)
    return Tokenizer.from_str(json.dumps(spec))


def sentencepiece(normalizer, pre, decoder, size=420):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if normalizer:
        t.normalizer = normalizer
    # Trained on words, as sentencepiece does, whatever the finished tokenizer splits on.
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next") if normalizer else pre
    t.train_from_iterator(CORPUS[:6], trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=["<unk>"] + SPECIALS))

    def edit(spec):
        vocab = spec["model"]["vocab"]
        for b in BYTES:
            vocab[b] = len(vocab)
        spec["model"]["byte_fallback"] = True
        spec["pre_tokenizer"] = json.loads(pre.__getstate__()) if pre else None
    t = with_bytes(t, edit)
    t.decoder = decoder
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def unigram(normalizer, fallback):
    t = Tokenizer(models.Unigram())
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre_tokenizers.Metaspace(), decoders.Metaspace()
    t.train_from_iterator(CORPUS[:6], trainers.UnigramTrainer(vocab_size=330, show_progress=False, unk_token="<unk>",
                                                             special_tokens=["<unk>"] + SPECIALS))

    def edit(spec):
        if fallback:
            spec["model"]["vocab"] += [[b, -20.0] for b in BYTES]
            spec["model"]["byte_fallback"] = True
            spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spec["decoder"]]}
    return with_bytes(t, edit)


def words(prefix=None, suffix=None, fuse=False):
    affixes = {**({"continuing_subword_prefix": prefix} if prefix else {}), **({"end_of_word_suffix": suffix} if suffix else {})}
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, **affixes))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents(), normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder(suffix or "</w>")
    t.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=250, show_progress=False, special_tokens=["<unk>"] + SPECIALS, **affixes))
    return t


def splits():
    t = byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split("-", "merged_with_next"), pre_tokenizers.Split(Regex(r"[0-9]{2}"), "merged_with_previous"),
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False), pre_tokenizers.Split(Regex(r"\S+"), "isolated", True),
        pre_tokenizers.CharDelimiterSplit("#"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        normalizer=normalizers.Replace(Regex(r"\t+"), " "))
    t.add_tokens([AddedToken("WORD", single_word=True, normalized=False), AddedToken("<mask>", lstrip=True, normalized=False)])
    t.add_special_tokens([AddedToken("</s>", rstrip=True, lstrip=True), AddedToken("inside", rstrip=True, normalized=True)])
    return t


def lowered():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    t.add_tokens([AddedToken("WORD", normalized=True), AddedToken("  ", normalized=False), AddedToken("<|us", normalized=False)])
    return t


LEGACY = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
LEGACY_DECODER = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
template = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])])
TOKENIZERS = {
    "bytes_gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "bytes_lowered": lowered,
    "bytes_llama3": lambda: byte_level(split_then_bytes(LLAMA3), ignore_merges=True, post=template),
    "bytes_qwen2": lambda: byte_level(split_then_bytes(QWEN2), normalizer=normalizers.NFC()),
    "bytes_o200k": lambda: byte_level(split_then_bytes(O200K)),
    "bytes_tekken": lambda: byte_level(split_then_bytes(TEKKEN), ignore_merges=True),
    "bytes_qwen35": lambda: byte_level(split_then_bytes(QWEN35), normalizer=normalizers.NFC()),
    "bytes_seed_coder": lambda: byte_level(split_then_bytes(SEED_CODER)),
    "bytes_deepseek_llm": lambda: byte_level(split_then_bytes("[\r\n]", CASED, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", EAST_ASIAN, pre_tokenizers.Digits(True))),
    "bytes_deepseek_coder": lambda: byte_level(split_then_bytes("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, pre_tokenizers.Digits(True))),
    "bytes_deepseek3": lambda: byte_level(split_then_bytes(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)),
    "bytes_falcon": lambda: byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])),
    "bytes_bloom": lambda: byte_level(split_then_bytes(BLOOM)),
    "bytes_viking": lambda: byte_level(split_then_bytes(BLOOM, pre_tokenizers.Digits(True))),
    "bytes_digits": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
    "bytes_splits": splits,
    "sp_legacy": lambda: sentencepiece(LEGACY, None, LEGACY_DECODER),
    "sp_metaspace": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first"), LEGACY_DECODER),
    "sp_unsplit": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False), decoders.Metaspace()),
    "sp_gemma": lambda: sentencepiece(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                                      decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])),
    "unigram": lambda: unigram(normalizers.NFKC(), False),
    "unigram_bytes": lambda: unigram(normalizers.NFKD(), True),
    "words_prefix": lambda: words(prefix="##"),
    "words_suffix": lambda: words(suffix="</w>", fuse=True),
}

out = {"texts": TEXTS, "cases": {}}
for name, make in TOKENIZERS.items():
    spec = json.loads(make().to_str())
    merges = spec["model"].get("merges")
    if merges and name in ("bytes_gpt2", "sp_legacy"):  # the older spelling
        spec["model"]["merges"] = [" ".join(m) for m in merges]
    (HERE / f"{name}.json").write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    t = Tokenizer.from_str(json.dumps(spec))
    ids = [t.encode(x, add_special_tokens=False).ids for x in TEXTS]
    decoded = [t.decode(i, skip_special_tokens=False) for i in ids]
    out["cases"][name] = {"ids": ids, "special": t.encode(TEXTS[0]).ids,
                          "decoded": [None if d == x else d for d, x in zip(decoded, TEXTS)]}
(HERE / "goldens.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
