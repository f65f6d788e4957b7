"""Studies: many short training runs that differ in one setting, their scores, one table. See `training.study`."""
