"""Builds the demo tokenizer: Gemma 4's kind of BPE and its ids up to 493, with a small vocabulary.

Ids 0 to 106 are Gemma's special tokens, 107 to 137 runs of newlines, 138 to 167 runs of spaces, 238
to 493 the bytes; learned pieces and characters follow.
"""

import json
import pathlib

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048
SPACE = '\u2581'
NUM_BASE_IDS = 494
RUN_MAX = 31

SPECIAL_IDS = {
    '<pad>': 0, '<eos>': 1, '<bos>': 2, '<unk>': 3, '<mask>': 4, '<|tool>': 46, '<tool|>': 47,
    '<|tool_call>': 48, '<tool_call|>': 49, '<|tool_response>': 50, '<tool_response|>': 51,
    '<|"|>': 52, '<|think|>': 98, '<|channel>': 100, '<channel|>': 101, '<|turn>': 105,
    '<turn|>': 106}
# Added tokens that decoding with skip_special_tokens keeps, as in the published file.
VISIBLE = {'<|tool_call>', '<tool_call|>', '<|tool_response>', '<tool_response|>', '<|"|>',
           '<|channel>', '<channel|>'}
CHARACTERS = [SPACE] + [chr(c) for c in range(33, 127)] + list(
    'äöüßéèêàçñáíóúâîôåøæÄÖÜÉ€£°–—’“”…\t')


def _BaseVocab():
    """Returns ids 0 to 493."""
    by_id = {i: token for token, i in SPECIAL_IDS.items()}
    by_id |= {106 + n: '\n' * n for n in range(1, RUN_MAX + 1)}
    by_id |= {136 + n: SPACE * n for n in range(2, RUN_MAX + 1)}
    by_id |= {238 + b: f'<0x{b:02X}>' for b in range(256)}
    unused = (f'<unused{n}>' for n in range(NUM_BASE_IDS))
    return {by_id.get(i) or next(unused): i for i in range(NUM_BASE_IDS)}


def _RunMerges():
    """Returns merges that turn any run of newlines or spaces up to RUN_MAX into one token."""
    return [[c * left, c * right]
            for left in range(RUN_MAX - 1, 0, -1)
            for right in range(min(left, RUN_MAX - left), 0, -1)
            for c in ('\n', SPACE)]


def _LearnMerges(texts, num_merges):
    """Learns merges inside words: a piece starts with at most one space and holds one kind."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex('\n+'), 'removed'),
        pre_tokenizers.Split(' ', 'merged_with_next'),
        pre_tokenizers.Split(Regex(r'\d|[^\w\s]'), 'isolated')])
    trainer = trainers.BpeTrainer(
        vocab_size=len(CHARACTERS) + num_merges, show_progress=False, min_frequency=2,
        initial_alphabet=[c.replace(SPACE, ' ') for c in CHARACTERS])
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())['model']['merges']
    return [[part.replace(' ', SPACE) for part in merge] for merge in merges][:num_merges]


def Build(texts):
    """Returns the tokenizer as the value of tokenizer.json."""
    merges = _LearnMerges(texts, VOCAB_SIZE - NUM_BASE_IDS - len(CHARACTERS))
    vocab = _BaseVocab()
    for piece in [''.join(merge) for merge in merges] + CHARACTERS:
        vocab.setdefault(piece, len(vocab))
    added = [{'id': i, 'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False,
              'normalized': False, 'special': token not in VISIBLE}
             for token, i in SPECIAL_IDS.items()]
    return {
        'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': added,
        'normalizer': {'type': 'Replace', 'pattern': {'String': ' '}, 'content': SPACE},
        'pre_tokenizer': {'type': 'Split', 'pattern': {'String': ' '},
                          'behavior': 'MergedWithPrevious', 'invert': False},
        'post_processor': None,
        'decoder': {'type': 'Sequence', 'decoders': [
            {'type': 'Replace', 'pattern': {'String': SPACE}, 'content': ' '},
            {'type': 'ByteFallback'}, {'type': 'Fuse'}]},
        'model': {'type': 'BPE', 'dropout': None, 'unk_token': '<unk>',
                  'continuing_subword_prefix': None, 'end_of_word_suffix': None, 'fuse_unk': True,
                  'byte_fallback': True, 'ignore_merges': False, 'vocab': vocab,
                  'merges': _RunMerges() + merges}}


def Save(directory, texts):
    """Writes tokenizer.json and tokenizer_config.json."""
    directory = pathlib.Path(directory)
    (directory / 'tokenizer.json').write_text(
        json.dumps(Build(texts), ensure_ascii=False, indent=1) + '\n')
    (directory / 'tokenizer_config.json').write_text(json.dumps({
        'bos_token': '<bos>', 'boc_token': '<|channel>', 'bot_token': '<|turn>',
        'clean_up_tokenization_spaces': False, 'eoc_token': '<channel|>', 'eos_token': '<eos>',
        'eot_token': '<turn|>', 'mask_token': '<mask>', 'model_max_length': 4096,
        'pad_token': '<pad>', 'padding_side': 'left', 'think_token': '<|think|>',
        'tokenizer_class': 'GemmaTokenizer', 'unk_token': '<unk>'}, indent=2) + '\n')
