"""Uses of frozen encoders: files of features, nearest neighbours, exported programs."""
