"""A Lightning script with one line of Lanemark's: its callback. A small network over random numbers.

lanemark run training --steps 30 --warmup 5 -- python examples/train_lightning.py 30
"""

import sys

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import lanemark

BATCH, WIDTH, ACCUMULATE = 8, 16, 2


class Autoencoder(lightning.LightningModule):
    """Learns to give back what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, WIDTH))

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    loader = DataLoader(TensorDataset(torch.randn(4096, WIDTH)), batch_size=BATCH)
    trainer = lightning.Trainer(
        max_steps=steps, accumulate_grad_batches=ACCUMULATE, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="auto", devices=1,
        callbacks=[lanemark.lightning_callback(tokens=BATCH * ACCUMULATE)],
    )  # fmt: skip
    trainer.fit(Autoencoder(), loader)


if __name__ == "__main__":
    main()
