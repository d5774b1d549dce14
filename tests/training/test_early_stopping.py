"""The best epoch, and when to stop waiting for a better one."""

from imginav_jax.training.early_stopping import EarlyStopping


def test_any_fall_is_a_new_best_but_only_a_real_one_ends_the_waiting():
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert stopping.update(1.0, 1, 10)
    assert stopping.update(0.95, 2, 20)  # better, but not by 0.1
    assert (stopping.best_epoch, stopping.waited, stopping.should_stop) == (2, 1, False)
    assert stopping.update(0.85, 3, 30)  # by more than 0.1 since epoch 1
    assert stopping.waited == 0
    assert not stopping.update(0.9, 4, 40)
    assert stopping.update(0.84, 5, 50)
    assert (stopping.best_epoch, stopping.best_step, stopping.should_stop) == (5, 50, True)


def test_early_stopping_goes_on_from_what_it_dumped():
    losses = [1.0, 0.5, 0.6, 0.55, 0.7, 0.3]
    whole, first, second = (EarlyStopping(5, 0.01) for _ in range(3))
    for epoch, loss in enumerate(losses):
        whole.update(loss, epoch, epoch)
        (first if epoch < 3 else second).update(loss, epoch, epoch)
        if epoch == 2:
            second.load(first.dump())
    assert second == whole
