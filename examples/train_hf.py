"""A Hugging Face Trainer script with one line of Lanemark's: its callback. A tiny GPT-2 over random tokens.

lanemark run training --steps 30 --warmup 5 -- python examples/train_hf.py 30
"""

import sys
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import lanemark

SEQUENCE, BATCH, ACCUMULATE = 32, 4, 2


class Tokens(Dataset):  # type: ignore[type-arg]
    """Sequences of made-up tokens."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, 128, (SEQUENCE,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=SEQUENCE, n_embd=32, n_layer=2, n_head=2))
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory, max_steps=steps, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATE,
            logging_steps=10, report_to=[], save_strategy="no", use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        )  # fmt: skip
        callback = lanemark.hf_callback(tokens=BATCH * ACCUMULATE * SEQUENCE)
        Trainer(model, arguments, train_dataset=Tokens(), callbacks=[callback]).train()


if __name__ == "__main__":
    main()
