"""SLR in a plain loop that fine-tunes a network of timm on its own clusters.

    python examples/timm_finetuning.py [--no-slr] [--epochs 6] [--seed 0]

Every epoch a classifier begins as the means of the clusters, and is trained with the network by cross entropy. The
three lines that use rapids_slr are marked. Mean ARI of the last labels over seeds 10 to 15, on a CPU: 0.917 with SLR,
0.869 without, a paired difference of 0.048 +- 0.019 (95 %). The settings were picked on seed 0.
"""

import torch
from drawn import augment, draw_images, embed, new_encoder, options, show
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.evaluation import label_quality

BATCH, ITERATIONS, SCALE = 64, 30, 16


def main(argv: list[str] | None = None) -> list[float]:
    """Train, and give the ARI of the labels of each epoch."""
    args = options(argv, "Fine-tune a network of timm on refined clusters of drawn images.")
    torch.manual_seed(args.seed)
    images, identity_N = draw_images()
    encoder = new_encoder()

    cluster = JaccardDBSCAN(k1=12, k2=4, pairs_per_image=5)  # <-- rapids_slr 1: below (12 images - 1) / 2 pairs
    slr = SLR(min_cluster_size=4, noise="argmax")  # <-- rapids_slr 2: remembers the labels of the last epoch

    scores = []
    for epoch in range(1, args.epochs + 1):
        features_ND = embed(encoder, images)
        labels_N = cluster.fit_predict(features_ND)
        if not args.no_slr:
            labels_N = slr.update(labels_N).hard  # <-- rapids_slr 3: this epoch's labels, refined
        scores.append((quality := label_quality(labels_N, identity_N))["ari"])
        show(epoch, quality)

        clustered = (labels_N >= 0).nonzero()[:, 0]
        means_KD = torch.zeros(int(labels_N.max()) + 1, features_ND.shape[1])
        means_KD.index_add_(0, labels_N[clustered], features_ND[clustered])
        classifier = nn.Parameter(normalize(means_KD))
        optimizer = torch.optim.AdamW([*encoder.parameters(), classifier], lr=1e-3)
        encoder.train()
        for _ in range(ITERATIONS):
            batch = clustered[torch.randint(len(clustered), (BATCH,))]
            logits_BK = SCALE * normalize(encoder(augment(images[batch]))) @ classifier.T
            loss = cross_entropy(logits_BK, labels_N[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return scores


if __name__ == "__main__":
    main()
