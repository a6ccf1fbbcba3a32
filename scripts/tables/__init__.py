"""What table1 and table2 share: the clips of a test set, the videos that methods make of them, and the score sheet."""
