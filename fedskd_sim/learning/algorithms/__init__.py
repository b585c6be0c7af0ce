"""What each algorithm does with models at a hospital: one learner a module; `learners` chooses."""
