"""What a trial is, for users: a train function, a Trainable, a ModelTrainable. `runner.py` says what executors see of them."""
