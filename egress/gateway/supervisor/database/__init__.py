"""The supervisor and its database: following edits, writing policy, holds, this gateway's presence."""
