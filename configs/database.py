# The program of database.toml: counts its starts.
import sqlite3

database = sqlite3.connect("/data/visits.db")
with database:
    database.execute("create table if not exists visits (at text not null)")
    database.execute("insert into visits values (datetime('now'))")
print("visits so far:", *database.execute("select count(*) from visits").fetchone())
print("integrity:", *database.execute("pragma integrity_check").fetchone())
