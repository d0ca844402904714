"""SLR in a loop of pytorch-metric-learning: its sampler, miner and loss take refined clusters for labels.

    pip install pytorch-metric-learning
    python examples/metric_learning.py [--no-slr] [--epochs 6] [--seed 0]

The three lines that use rapids_slr are marked. Mean ARI of the last labels over seeds 10 to 15, on a CPU: 0.933
with SLR, 0.872 without, a paired difference of 0.060 +- 0.019 (95 %). The settings were picked on seed 0.
"""

import torch
from drawn import augment, draw_images, embed, new_encoder, options, show
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader, TensorDataset

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.evaluation import label_quality

BATCH, EACH, ITERATIONS = 64, 4, 30


def main(argv: list[str] | None = None) -> list[float]:
    """Train, and give the ARI of the labels of each epoch."""
    args = options(argv, "Metric learning on refined clusters of drawn images.")
    torch.manual_seed(args.seed)
    images, identity_N = draw_images()
    encoder = new_encoder()
    find_pairs, loss_of = MultiSimilarityMiner(), MultiSimilarityLoss()

    cluster = JaccardDBSCAN(k1=12, k2=4, pairs_per_image=5)  # <-- rapids_slr 1: below (12 images - 1) / 2 pairs
    slr = SLR(min_cluster_size=4, noise="argmax")  # <-- rapids_slr 2: remembers the labels of the last epoch

    scores = []
    for epoch in range(1, args.epochs + 1):
        labels_N = cluster.fit_predict(embed(encoder, images))
        if not args.no_slr:
            labels_N = slr.update(labels_N).hard  # <-- rapids_slr 3: this epoch's labels, refined
        scores.append((quality := label_quality(labels_N, identity_N))["ari"])
        show(epoch, quality)

        clustered = (labels_N >= 0).nonzero()[:, 0]
        data = TensorDataset(images[clustered], labels_N[clustered])
        sampler = MPerClassSampler(labels_N[clustered], EACH, BATCH, length_before_new_iter=BATCH * ITERATIONS)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
        encoder.train()
        for images_B, labels_B in DataLoader(data, BATCH, sampler=sampler):
            features_BD = encoder(augment(images_B))
            loss = loss_of(features_BD, labels_B, find_pairs(features_BD, labels_B))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return scores


if __name__ == "__main__":
    main()
