"""Readers: the query language, and the queries of commands, the API, hunts and simulations.

reader         flows, findings, summaries of agents, by a `Filter`    query, observe, report, timeline, /flows/ID
search         the query language as SQL conditions                   reader, selection, query --fields
selection      the filters of an API request as conditions            /flows, /findings, /verdicts, /stream
listing        pages of records, and the records since a time         /flows, /findings, /stream, evidence
tail           records as they are stored                             observe
counting       flows and findings, counted in groups                  query --count-by, report, show agent
timeline       activity over time, a number for each interval         timeline, report
story          all about one flow, finding or agent                   show, report
episodes       an episode's steps, with the traffic of each           show episode, episodes, /episodes
stepjoin       the steps that an event belongs to, in memory          episodes (here)
stepjoin_sql   the same as SQL conditions                             search, counting (here)
storyjson      flows, steps and episodes as JSON                      show, query, /episodes, /agents/A/steps
processes      the processes that opened flows                        readers of flows, /flows, /verdicts
heldby         the process and the tool calls behind a hold           /approvals
verifying      records and segments, verified by their seals          verify
history        starts of flows and sums of traffic, streamed          egress.hunt
flowgroups     equal flows as one group; objections                   egress.whatif: simulate, learn
"""
