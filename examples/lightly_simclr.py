"""SLR in a loop of lightly: SimCLR on two views of an image, and contrast between refined clusters beside it.

    pip install lightly
    python examples/lightly_simclr.py [--no-slr] [--epochs 6] [--seed 0]

SimCLR says that two views are one image; the clusters say which images are one identity. The three lines that use
rapids_slr are marked. Mean ARI of the last labels over seeds 10 to 15, on a CPU: 0.790 with SLR, 0.708 without,
more in each of them, but a paired difference of 0.08 +- 0.11 (95 %): most of it is one seed.
"""

import torch
from drawn import augment, draw_images, embed, new_encoder, options, show
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch.nn.functional import cross_entropy, normalize

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.evaluation import label_quality

BATCH, ITERATIONS, SCALE = 64, 30, 16


def main(argv: list[str] | None = None) -> list[float]:
    """Train, and give the ARI of the labels of each epoch."""
    args = options(argv, "SimCLR and refined clusters of drawn images.")
    torch.manual_seed(args.seed)
    images, identity_N = draw_images()
    encoder, views_agree = new_encoder(), NTXentLoss()
    head = SimCLRProjectionHead(encoder.num_features, 128, 64)

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

        means_KD = torch.zeros(int(labels_N.max()) + 1, features_ND.shape[1])
        means_KD = normalize(means_KD.index_add_(0, labels_N.clamp(min=0), features_ND * (labels_N >= 0)[:, None]))
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
        encoder.train()
        for _ in range(ITERATIONS):  # all images: SimCLR needs no label, and cross entropy passes over -1
            batch = torch.randint(len(images), (BATCH,))
            first_BD, second_BD = encoder(augment(images[batch])), encoder(augment(images[batch]))
            clusters = cross_entropy(SCALE * normalize(first_BD) @ means_KD.T, labels_N[batch], ignore_index=-1)
            loss = views_agree(head(first_BD), head(second_BD)) + clusters
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return scores


if __name__ == "__main__":
    main()
