import pytest


@pytest.fixture
def rto_losses(train_losses, small_data):
    """The losses of RTO by step, of training with these settings."""

    def losses(**settings):
        trainer = train_losses(small_data("rto"), **settings)
        return [entry["loss_rto"] for entry in trainer.state.log_history if "loss_rto" in entry]

    return losses


def test_with_one_refusal_word_a_set_trains_as_a_token_does(rto_losses):
    assert rto_losses(rto_targets="set") == rto_losses()


def test_a_margin_that_every_position_reaches_trains_nothing_and_one_that_none_reaches_all(rto_losses):
    assert set(rto_losses(rto_margin=1e-9)) == {0}
    assert rto_losses(rto_margin=1.0) == rto_losses()
