"""What the report of Phase 1.2 measures, and the rule by which it chooses a latent resolution.

    python -m imginav_jax.report outputs/phase1_2_spatial_resolution --config configs/report.py

Detail metrics are shares between 0 and 1, higher is better; a fall is the finest resolution's value less another's.
The rule, applied to the runs of one arm (R1, R2, R3, or V1, V2, V3):

1. The finest latent (64x64 at 512x512) is preferred: a ControlNet places what it draws by the latent's cells.
2. The latent of half its resolution (32x32) may take its place if the weighted mean of the detail metrics falls by no
   more than `margin`; a coarser one (16x16) only if no single detail metric falls by more than that.
3. Of those that may, the cheapest one wins: by the training time to a given control where that was measured, else by a
   training step of a diffusion model with ControlNet where a benchmark has measured it, else by the number of cells.
4. A fall counts as within the margin, or as beyond it, if its whole confidence interval is.  The outcome is "undecided"
   where an interval holds the margin and the answer hangs on it, where no metric tells the runs apart, and where a run
   is missing or has not finished.
5. A run that draws worse than what its latent's shape holds without training (each cell's majority or mean colour, the
   finest run's latent cut to that shape by PCA) is limited by its training: its resolution is undecided where it would
   be beyond the margin, and all are where it is the finest run.
6. A decision is firm if it stands where every run gains once more what it gained by the last doubling of its training,
   from the kept checkpoint nearest half of it; else, or where none is left, it is provisional.

Of a VAE test (Phase 1.3), the variational model is taken unless a detail metric falls beyond `margin` below that of the
deterministic one, or its latents are not smoother.  Smoothness is judged by what is decoded from the middle between the
latents of two layouts: the share of pixels of palette colour, and the MMD to real layouts.  The latents are smoother
where one of the two is better and none worse, beyond the intervals, and not smoother the other way round.  Else, or
where the interval of a detail metric holds the margin, the outcome is "undecided".  A verdict on smoothness is firm
where it was the same at about half the training.
"""

from typing import Any

from ml_collections import config_dict


def get_config() -> Any:
    config: Any = config_dict.ConfigDict()

    config.decision = config_dict.ConfigDict()
    config.decision.arms = config_dict.ConfigDict()  # a decision each, where one of its runs is there
    config.decision.arms.plain = "R1", "R2", "R3"
    config.decision.arms.shortcuts = "R1 shortcuts", "R2 shortcuts", "R3 shortcuts"
    config.decision.arms.matched_volume = "V1", "V2", "V3"
    config.decision.arms.matched_volume_shortcuts = "V1 shortcuts", "V2 shortcuts", "V3 shortcuts"
    config.decision.vae_tests = config_dict.ConfigDict()  # the deterministic and the variational run of each
    config.decision.vae_tests.VAE_test = "V1 deterministic", "V2 VAE"
    config.decision.vae_tests.VAE_test_from_winner = "V1 deterministic from winner", "V2 VAE from winner"
    config.decision.vae_tests.final_training = "final AE", "final VAE"
    config.decision.arm = "plain"  # whose winner goes on to Phase 1.3
    config.decision.stand_ins = config_dict.ConfigDict()  # the same architecture, where one has no run
    config.decision.stand_ins["V2"] = "R2"
    config.decision.stand_ins["V2 shortcuts"] = "R2 shortcuts"
    config.decision.margin = 0.02  # of a share: 0.02 is two percentage points
    config.decision.output = "rgb"  # what is judged: rgb (snapped to the palette) or segmentation (the head's classes)
    config.decision.weights = config_dict.ConfigDict()  # of the detail metrics, in the weighted mean
    config.decision.weights.mean_iou = 1.0
    config.decision.weights.boundary_f_1 = 1.0
    config.decision.weights.boundary_f_2 = 1.0
    config.decision.weights.boundary_iou_2 = 1.0
    config.decision.weights.wall_recall = 1.0
    config.decision.weights.wall_cldice = 1.0
    config.decision.weights.small_object_recall = 1.0
    config.decision.weights.probe_mean_iou = 1.0  # of the linear probe, where control was not measured
    config.decision.weights.control = 1.0  # where it was measured on every run of an arm: imginav_jax.control

    config.bootstrap = config_dict.ConfigDict()
    config.bootstrap.samples = 2000
    config.bootstrap.confidence = 0.95  # of the intervals, in (0, 1)
    config.bootstrap.seed = 0
    config.bootstrap.min_scenes = 10  # in the validation split, for an interval that a decision may rest on

    config.smoothness = config_dict.ConfigDict()  # of latents, in VAE tests
    config.smoothness.pairs = 200  # of validation layouts of different scenes, at most
    config.smoothness.seed = 0  # of their choice

    config.probe = config_dict.ConfigDict()  # the linear probe from latents to classes
    config.probe.layouts = 1000  # training layouts that it learns from, at most
    config.probe.steps = 600  # of Adam
    config.probe.batch_pixels = 65_536  # in the cells of a step
    config.probe.penalty = 1e-3  # of the squared weights on whitened latents, a pixel of the cell
    config.probe.learning_rate = 0.15  # at the start; falls to 0 along a cosine
    config.probe.seed = 0  # of the batches
    return config
