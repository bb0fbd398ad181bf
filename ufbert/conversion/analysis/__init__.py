"""What choosing neurons for each token could be worth in each dense layer, and how much of it trees get."""
