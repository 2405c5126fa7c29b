"""``python -m syllabary.workers VERB '<json>'``: one job, run in this process."""

from syllabary.workers.control.run_verb import main

if __name__ == "__main__":
    main()
