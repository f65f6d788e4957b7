"""From a list of molecules to a training set: geometries, labels, splits. Run from a checkout; see data/README.md.

    set file (TOML) --settings--> SetFile --sources--> Seed --prepare--> Structure --label--> LabelRow --journal--> file

`python -m data.generate SET.toml -o LABELS.h5` does all of it; every arrow is one file.
"""
