"""Recordings -> frames worth training on, and others held out to judge by, in a cache on disk.

The way of a frame: `topics` opens the recordings, `survey` reads every image once and measures it, `selection`
decides by the measurements alone, `frame_cache` reads the chosen images again and stores them. `run` joins them.
"""

from superpoint_training.harvest.run import Harvest, HarvestPlan, harvest, plan_harvest, survey_share
from superpoint_training.harvest.settings import SMALLEST_SIDE, HarvestConfig, HarvestError
from superpoint_training.harvest.topics import list_topics, open_feeds

__all__ = [
    'SMALLEST_SIDE',
    'Harvest',
    'HarvestConfig',
    'HarvestError',
    'HarvestPlan',
    'harvest',
    'list_topics',
    'open_feeds',
    'plan_harvest',
    'survey_share',
]
