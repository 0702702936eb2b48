"""A BERT small enough for unit tests, with random weights and a tokenizer trained on a few sentences."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

SENTENCES = (
    "the minister told parliament about the new tax law",
    "shares rose in london as the bank reported profit",
    "the striker scored twice in the final match of the season",
    "a new phone and a faster computer chip were shown",
    "the film won an award for best actor and best song",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tiny_bert(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of a random BERT into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config)
        # BERT's initialisation is small enough to make all pooled outputs alike; a trained model's are not.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    return folder


def train_tokenizer(
    special: tuple[str, ...] = SPECIAL, *, unknown: str = "[UNK]", ends: tuple[str, str] = ("[CLS]", "[SEP]")
) -> Tokenizer:
    """Return a tokenizer of a few hundred words whose first ids are those of `special`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    first, last = ends
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ends]
    )
    return tokenizer
