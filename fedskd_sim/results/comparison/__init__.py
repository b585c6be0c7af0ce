"""What an algorithm is worth: several of them at equal work, paired by seed, on the same data
and with the same predictors.
"""
