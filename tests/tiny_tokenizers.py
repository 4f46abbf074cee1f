"""A tiny tokenizer of each class that can be trimmed, trained on a few lines, in memory."""

import functools
import json

import transformers as hf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = {
    "hau": [
        "Ina kwana, yaya aiki yau a kasuwa?",
        "Yara suna wasa a gida tare da ɗan'uwansu.",
        "Gwamnati ta ce za ta gina sabuwar makaranta a Kano.",
        "Ruwan sama ya sauka da yawa a ƙauyen nan jiya.",
        "Ya ce zai zo gida gobe da safe in Allah ya yarda.",
    ],
    "yor": [
        "Báwo ni, ṣé dáadáa ni o jí ní òwúrọ̀ yìí?",
        "Àwọn ọmọ ń ṣeré ní ilé pẹ̀lú ẹ̀gbọ́n wọn.",
        "Ìjọba sọ pé àwọn yóò kọ́ ilé ẹ̀kọ́ tuntun ní Ìbàdàn.",
    ],
    "eng": [
        "Good morning, how is the work at the market today?",
        "The children are playing at home with their brother.",
        "The government says that it will build a new school in Kano.",
        "Heavy rain fell in this village yesterday, and the day before.",
    ],
}
TEXT = [line for lines in LINES.values() for line in lines]
WORDS = sorted({word for line in TEXT for word in line.split()})

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
QWEN_PATTERN = hf.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX


@functools.cache
def wordpiece(size=220):
    """A trained WordPiece vocabulary, ids by token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT_SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.get_vocab()


@functools.cache
def unigram(size=160):
    """Trained Unigram pieces with their scores, no special token among them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    pieces = [tokenizer.id_to_token(token_id) for token_id in range(tokenizer.get_vocab_size())]
    # Scores of their own: the trainer's would do, but these make ties and close calls likelier.
    return [
        (piece, -1.0 - (7 * number) % 11 - 0.5 * (number % 3))
        for number, piece in enumerate(pieces)
        if piece != "<unk>"
    ]


@functools.cache
def bpe(kind, size=380, **model):
    """A trained BPE model: ids by token and merges. `kind` is its pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(**model))
    byte_level = kind == "bytes"
    tokenizer.pre_tokenizer = {
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "metaspace": pre_tokenizers.Metaspace(),
        "words": pre_tokenizers.Whitespace(),
    }[kind]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else [],
        show_progress=False,
        max_token_length=12,
        **{name: value for name, value in model.items() if name != "unk_token"},
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    return tuple(tokens), tuple(map(tuple, merges))


def _numbered(*groups):
    return {token: number for number, token in enumerate(token for group in groups for token in group)}


def bert(**more):
    return hf.BertTokenizer(vocab=dict(wordpiece()), do_lower_case=True, **more)


def distilbert():
    return hf.DistilBertTokenizer(vocab=dict(wordpiece()), model_max_length=77)


def xlm_roberta():
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return hf.XLMRobertaTokenizer(vocab=[*specials, *unigram(), ("<mask>", 0.0)])


def camembert():
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    specials = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first]
    return hf.CamembertTokenizer(vocab=[*specials, *unigram(), ("<mask>", 0.0)])


def deberta_v2(unk_score=0.0):
    specials = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0)]
    # The unknown token comes late, so that its id changes.
    return hf.DebertaV2Tokenizer(
        vocab=[*specials, *unigram(), ("[UNK]", unk_score), ("[MASK]", 0.0)], unk_id=3 + len(unigram())
    )


def roberta():
    tokens, merges = bpe("bytes")
    return hf.RobertaTokenizer(
        vocab=_numbered(["<s>", "<pad>", "</s>", "<unk>"], tokens, ["<mask>"]), merges=list(merges)
    )


def gpt2():
    tokens, merges = bpe("bytes")
    return hf.GPT2Tokenizer(vocab=_numbered(tokens, ["<|endoftext|>"]), merges=list(merges))


def qwen2():
    tokens, merges = bpe("bytes")
    made = hf.Qwen2Tokenizer(vocab=_numbered(tokens), merges=list(merges), chat_template="{{ messages }}")
    made.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


def llama(every_split=False, **more):
    tokens, merges = bpe("metaspace")
    vocabulary = _numbered(["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)], tokens)
    if every_split:  # as a conversion from sentencepiece has them
        merges = [
            (token[:cut], token[cut:])
            for token in tokens
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]
    return hf.LlamaTokenizer(vocab=vocabulary, merges=list(merges), **more)


def gemma():
    tokens, merges = bpe("metaspace")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    return hf.GemmaTokenizer(
        vocab=_numbered(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], fallback, tokens), merges=list(merges)
    )


def clip():
    """Byte-level, and told where a word ends."""
    tokens, merges = bpe("bytes")
    ends = [f"{token}</w>" for token in tokens]
    merges = [*merges, *((left, f"{right}</w>") for left, right in merges)]
    return hf.CLIPTokenizer(vocab=_numbered(tokens, ends, ["<|startoftext|>", "<|endoftext|>"]), merges=merges)


def albert():
    specials = [(token, 0.0) for token in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]
    return hf.AlbertTokenizer(vocab=[*specials, *unigram()])


def t5():
    """With special tokens that the class makes itself."""
    return hf.T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *unigram()], extra_ids=5)


def _general(model, pre_tokenizer, normalizer=None, decoder=None, specials=("<s>", "<pad>", "</s>", "<unk>"), **more):
    backend = Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(list(specials))
    ids = {token: backend.token_to_id(token) for token in specials}
    backend.post_processor = more.pop("post_processor", None) or processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[(t, ids[t]) for t in ("<s>", "</s>")]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"unk_token": "<unk>", "pad_token": "<pad>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **names, **more)


def general_unigram(**more):
    """As the shared teacher's: mask outside the pieces, and an added word."""
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    made = _general(
        models.Unigram([*specials, *unigram()], unk_id=3),
        pre_tokenizers.Metaspace(),
        normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")]),
        decoders.Metaspace(),
        **more,
    )
    made.add_tokens([AddedToken("Naijá", normalized=False)])
    made.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, special=True)})
    return made


def unigram_bytes():
    """Unigram with bytes to fall back on."""
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    fallback = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    model = models.Unigram([*specials, *fallback, *unigram()], unk_id=3, byte_fallback=True)
    return _general(model, pre_tokenizers.Metaspace())


def bert_processing():
    """A general tokenizer with BERT's own post-processor, inside a sequence."""
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>"], [t for t in wordpiece() if t not in BERT_SPECIALS])
    processor = processors.Sequence(
        [processors.BertProcessing(("</s>", 2), ("<s>", 0)), processors.ByteLevel(trim_offsets=False)]
    )
    return _general(
        models.WordPiece(vocabulary, unk_token="<unk>"),
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(lowercase=True),
        post_processor=processor,
    )


def bpe_suffix():
    """BPE whose tokens tell where a word ends, and where it goes on."""
    tokens, merges = bpe("words", unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>")
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>"], tokens)
    model = models.BPE(
        vocabulary, list(merges), unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"
    )
    return _general(model, pre_tokenizers.Whitespace())


def bpe_ignoring_merges():
    """Llama 3's: a word in the vocabulary is taken whole."""
    tokens, merges = bpe("bytes")
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>"], tokens)
    return _general(
        models.BPE(vocabulary, list(merges), ignore_merges=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    )


TOKENIZERS = {
    "bert": bert,
    "distilbert": distilbert,
    "xlm_roberta": xlm_roberta,
    "camembert": camembert,
    "deberta_v2": deberta_v2,
    "roberta": roberta,
    "gpt2": gpt2,
    "qwen2": qwen2,
    "llama": llama,
    "llama_every_split": functools.partial(llama, every_split=True),
    "llama_with_bos": functools.partial(llama, add_bos_token=True),
    "gemma": gemma,
    "clip": clip,
    "albert": albert,
    "t5": t5,
    "general_unigram": general_unigram,
    "unigram_bytes": unigram_bytes,
    "bert_processing": bert_processing,
    "bpe_suffix": bpe_suffix,
    "bpe_ignoring_merges": bpe_ignoring_merges,
}
"""A maker of each kind, by name."""
