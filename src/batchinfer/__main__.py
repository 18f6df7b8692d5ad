"""`python -m batchinfer`, where the script is not on the path; and the file that spark-submit is given."""

from batchinfer.cli import main

if __name__ == "__main__":
    main(prog_name="batchinfer")
