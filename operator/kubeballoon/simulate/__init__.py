"""Replays of recorded VM memory through the very core that decides on a cluster, and what they show.

Its report needs the extra ``simulate`` (matplotlib); ``main`` alone does not, so that the command line can say so.
"""
