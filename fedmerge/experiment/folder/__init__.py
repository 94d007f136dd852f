"""The folder of a run: manifest, tables, state; how it is opened, verified and queried again."""
