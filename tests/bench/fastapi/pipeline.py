"""The recommendation pipeline as a competent Python engineer would write it: the same ONNX files, everything else in numpy.

exclude -> retrieval model -> top 200 -> encode features -> ranker -> sum of logs -> MMR. What depends on items alone is computed
once; what depends on the visitor once a request; candidates are rows of matrices, never a Python loop. The rows are those of
models/runtime/src/features (the ranker was trained on them), which `make bench-peers` checks by comparing answers.
"""
import json
import pathlib
import time

import numpy as np
import onnxruntime as ort

# Constants of models/runtime/src/features.
LIKED_STARS = 4.0
DISLIKED_STARS = 2.0
VISITOR_PRIOR = 5.0
ITEM_PRIOR = 10.0
TASTE_PRIOR = 3.0
RECENT = 10
SESSION_MS = 30 * 60 * 1000
LOG_BUCKETS = SHARE_BUCKETS = 12
CANDIDATES = 200
TINY = np.finfo(np.float32).tiny


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def log_bucket(count):
    return min(int(count).bit_length(), LOG_BUCKETS - 1)


def share_bucket(share):
    return min(max(int(share * SHARE_BUCKETS), 0), SHARE_BUCKETS - 1)


def number(text):
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def cardinality(values):
    return len(values["vocabulary"]) + 1 if "vocabulary" in values else len(values["bands"]) + 2


def value_id(values, text):
    """The id of a text within its field; 0 is unknown."""
    if "vocabulary" in values:
        return values["vocabulary"].index(text) + 1 if text in values["vocabulary"] else 0
    value = number(text)
    return 0 if value is None else 1 + int(np.searchsorted(values["bands"], value, side="right"))


def scaled(edges, text):
    value = number(text)
    if value is None:
        return np.nan
    half = max((edges[-1] - edges[0]) / 2.0, TINY)
    return float(np.clip((value - edges[0]) / half - 1.0, -2.0, 2.0))


class Items:
    """Everything that depends on items alone, by their place in the catalog."""

    def __init__(self, catalog, ranker, vocabulary, retrieval_items):
        spec, total = ranker["features"], len(catalog)
        self.ids = [item["id"] for item in catalog]
        self.places = {item: place for place, item in enumerate(self.ids)}
        model_ids = {item: place + 1 for place, item in enumerate(vocabulary)}
        self.model_ids = np.array([model_ids.get(item, 0) for item in self.ids], np.int64)
        index_of = {item: index for index, item in enumerate(retrieval_items)}
        # Between the catalog and the retrieval model's vocabulary; -1: not there.
        self.index_of = np.array([index_of.get(item, -1) for item in self.ids], np.int64)
        self.place_of = np.array([self.places.get(item, -1) for item in retrieval_items], np.int64)
        self._hot(catalog, spec)
        self._stats(ranker, vocabulary, total)
        self._rows(catalog, spec)
        self._similarity(catalog)

    def _hot(self, catalog, spec):
        """Categories, then the bands of every banded attribute, as zeros and ones."""
        column = {name: at for at, name in enumerate(spec["categories"])}
        self.banded = [named for named in spec["attributes"] if "bands" in named["values"]]
        bands = sum(cardinality(named["values"]) for named in self.banded)
        self.categories = len(column)
        self.hot = np.zeros((len(catalog), self.categories + bands), np.float32)
        self.band = np.zeros((len(catalog), len(self.banded)), np.int64)
        self.value = np.zeros((len(catalog), len(self.banded)), np.float32)
        self.main_category = np.zeros(len(catalog), np.int64)
        for place, item in enumerate(catalog):
            known = [column[name] for name in item["categories"] if name in column]
            self.hot[place, known] = 1.0
            self.main_category[place] = known[0] + 1 if known else 0
            texts, first = dict(item["attributes"]), self.categories
            for at, named in enumerate(self.banded):
                self.band[place, at] = first + value_id(named["values"], texts.get(named["name"]))
                self.value[place, at] = scaled(named["values"]["bands"], texts.get(named["name"]))
                self.hot[place, self.band[place, at]] = 1.0
                first += cardinality(named["values"])
        self.hot_categories = np.ascontiguousarray(self.hot[:, : self.categories])
        self.share = 1.0 / np.maximum(self.hot_categories.sum(1), 1.0)

    def _stats(self, ranker, vocabulary, total):
        self.stars_mean, self.like_rate = ranker["global"]["stars_mean"], ranker["global"]["like_rate"]
        count, likes, stars = (np.zeros(total, np.float32) for _ in range(3))
        for item, stats in zip(vocabulary, ranker["item_stats"]):
            if (place := self.places.get(item)) is not None:
                count[place], likes[place], stars[place] = stats["count"], stats["likes"], stats["stars_sum"]
        self.count = count
        self.mean_stars = ((stars + ITEM_PRIOR * self.stars_mean) / (count + ITEM_PRIOR)).astype(np.float32)
        self.likes = ((likes + ITEM_PRIOR * self.like_rate) / (count + ITEM_PRIOR)).astype(np.float32)

    def _rows(self, catalog, spec):
        """The items' half of the ranker's rows, and where the visitor's fields begin in the embedding table."""
        columns = [(self.model_ids, len(self.model_ids) + 1), (self.main_category, self.categories + 1)]
        for named in spec["attributes"]:
            texts = (dict(item["attributes"]).get(named["name"]) for item in catalog)
            ids = np.array([value_id(named["values"], text) for text in texts], np.int64)
            columns.append((ids, cardinality(named["values"])))
        columns.append((np.array([log_bucket(count) for count in self.count]), LOG_BUCKETS))
        columns.append((np.array([share_bucket(share) for share in self.likes]), SHARE_BUCKETS))
        offsets = np.cumsum([0] + [size for _, size in columns])
        self.fields = np.stack([ids + offset for (ids, _), offset in zip(columns, offsets)], 1)
        sizes = [cardinality(named["values"]) for named in spec["traits"]]
        sizes += [LOG_BUCKETS, SHARE_BUCKETS, self.categories + 1, 24, 7]
        starts = np.cumsum([offsets[-1]] + sizes)
        # The liked items share the range of the last one.
        self.visitor_offsets = np.concatenate([starts, np.repeat(starts[-1], spec["liked_items"])])
        stats = np.stack([self.mean_stars - self.stars_mean, 2.0 * (self.likes - self.like_rate), np.log1p(self.count) / 6.0], 1)
        self.dense = np.concatenate([stats, np.nan_to_num(self.value), self.hot_categories], 1).astype(np.float32)

    def _similarity(self, catalog):
        """Jaccard similarity of every pair: 11 MB for this catalog, and no set operation in a request."""
        names = {name: at for at, name in enumerate(sorted({c for item in catalog for c in item["categories"]}))}
        hot = np.zeros((len(catalog), len(names)), np.float32)
        for place, item in enumerate(catalog):
            hot[place, [names[name] for name in item["categories"]]] = 1.0
        both, size = hot @ hot.T, hot.sum(1)
        self.similarity = both / np.maximum(size[:, None] + size[None, :] - both, 1.0)


class Pipeline:
    """Loads a folder of artifacts; `recommend` is one request."""

    def __init__(self, folder):
        read = lambda name: json.loads((pathlib.Path(folder) / name).read_text())
        card, ranker_card = read("retrieval.card.json"), read("ranker.card.json")
        self.rules, self.versions = read("rules.json"), (card["version"], ranker_card["version"])
        self.history_len = card["retrieval"]["history_len"]
        self.spec = ranker_card["ranker"]["features"]
        self.items = Items(read("catalog.json")["items"], ranker_card["ranker"], ranker_card["items"], card["items"])
        self.retrieval = session(pathlib.Path(folder) / "retrieval.onnx")
        self.ranker = session(pathlib.Path(folder) / "ranker.onnx")
        items, places = self.items, self.items.places
        # What is never served has no score to begin with: blocked, or not in the catalog.
        never = items.place_of < 0
        never[[items.index_of[places[item]] for item in self.rules.get("blocked", []) if item in places]] = True
        self.never = np.flatnonzero(never)
        self.popular = [places[item] for item in self.rules["popular"] if item in places]
        self.lam = np.float32(self.rules.get("diversity_lambda", 0.85))
        self.similarity = (1 - self.lam) * items.similarity
        self.trait_ids = [(named["name"], named["values"], {}) for named in self.spec["traits"]]
        # Memory that requests reuse: a worker runs one at a time.
        visitor_fields = len(items.visitor_offsets)
        self.field_rows = np.empty((CANDIDATES, items.fields.shape[1] + visitor_fields), np.int64)
        width = items.dense.shape[1] + 9 + 6 + 2 * len(items.banded)
        self.dense_rows = np.empty((CANDIDATES, width), np.float32)

    def recommend(self, profile, count, exclude=()):
        """Items, best first, and which stage served: (id, score, reason) each."""
        items = self.items
        met = [row for row in profile["interactions"] if row[0] in items.places] if profile else []
        if all(row[1] <= DISLIKED_STARS for row in met):
            taken = {items.places.get(item) for item in exclude}
            chosen = [place for place in self.popular if place not in taken][:count]
            return [(items.ids[p], 1.0 / (1.0 + n), "popular") for n, p in enumerate(chosen)], "popular"
        places = np.array([items.places[row[0]] for row in met], np.int64)
        disliked = np.array([row[1] <= DISLIKED_STARS for row in met])
        candidates, scores = self.retrieve(places, disliked, exclude)
        fields, dense = self.encode(profile, places, met, candidates)
        (likes,) = self.ranker.run(None, {"fields": fields, "dense": dense})
        scores += np.log(np.maximum(likes, TINY))
        order, relevance = self.rerank(candidates, scores, count)
        return [(items.ids[p], r, "taste") for p, r in zip(order, relevance)], "ranked"

    def retrieve(self, places, disliked, exclude):
        """The model's best candidates for what the visitor liked, best first, without what the visitor met."""
        items = self.items
        history = items.index_of[places]
        known = history[(history >= 0) & ~disliked][-self.history_len :]
        row = np.zeros((1, self.history_len), np.int64)
        row[0, self.history_len - len(known) :] = known + 1
        scores = self.retrieval.run(None, {"history": row})[0][0]
        scores[history[history >= 0]] = -np.inf
        scores[self.never] = -np.inf
        if exclude:
            scores[[items.index_of[items.places[item]] for item in exclude if item in items.places]] = -np.inf
        best = np.argpartition(scores, -CANDIDATES)[-CANDIDATES:]
        values = scores[best]
        order = np.argsort(-values, kind="stable")
        best, values = best[order], values[order]
        if values[-1] == -np.inf:
            best, values = best[values > -np.inf], values[values > -np.inf]
        return items.place_of[best], values

    def encode(self, profile, places, met, candidates):
        """The ranker's rows: the items' half is looked up, the visitor's computed once, the rest is one matrix product."""
        items, n = self.items, len(candidates)
        stars = np.array([row[1] for row in met], np.float32)
        surplus = stars - items.mean_stars[places]
        liked = (stars >= LIKED_STARS).astype(np.float32)
        weight = len(met) + VISITOR_PRIOR
        deviation = stars - items.stars_mean
        mean, bias = deviation.sum() / weight, surplus.sum() / weight
        spread = np.sqrt((np.square(deviation - mean).sum() + VISITOR_PRIOR) / weight)
        like_share = (liked.sum() + VISITOR_PRIOR * items.like_rate) / weight
        recent_weight = min(len(met), RECENT) + VISITOR_PRIOR
        recent_share = (liked[-RECENT:].sum() + VISITOR_PRIOR * items.like_rate) / recent_weight
        # Five sums over interactions, for every category and band at once.
        weights = np.ones((5, len(met)), np.float32)
        weights[1], weights[2] = surplus - bias, liked
        weights[3] = 0.0
        weights[3, -RECENT:] = 1.0 / RECENT
        weights[4] = weights[3] * liked
        tastes = weights @ items.hot[places]
        now_ms = int(time.time() * 1000)
        hours = max(now_ms - met[-1][2], 0) / 3_600_000
        session = sum(now_ms - row[2] <= SESSION_MS for row in met)

        fields, dense = self.field_rows[:n], self.dense_rows[:n]
        split = items.fields.shape[1]
        np.take(items.fields, candidates, 0, out=fields[:, :split], mode="clip")
        fields[:, split:] = self.visitor_fields(profile, places, liked, like_share, tastes[2], now_ms)
        at = items.dense.shape[1]
        np.take(items.dense, candidates, 0, out=dense[:, :at], mode="clip")
        dense[:, at : at + 9] = (
            mean, bias, spread - 1.0, like_share - items.like_rate, recent_share - items.like_rate,
            surplus[-RECENT:].sum() / recent_weight, np.log1p(len(met)) / 5.0, np.log1p(hours) / 8.0, np.log1p(session) / 5.0,
        )
        self.cross(dense[:, at + 9 :], candidates, tastes, bias, like_share)
        liked_value = self.liked_value(places, liked)
        for column, value in enumerate(liked_value):
            band = items.band[candidates, column]
            dense[:, at + 15 + 2 * column] = np.nan_to_num(items.value[candidates, column] - value)
            dense[:, at + 16 + 2 * column] = tastes[1, band] / (tastes[0, band] + TASTE_PRIOR)
        return fields, dense

    def cross(self, out, candidates, tastes, bias, like_share):
        """How the visitor took to things like each candidate."""
        items = self.items
        count, surplus, likes, recent, recent_liked = (items.hot_categories[candidates] @ tastes[:, : items.categories].T).T
        share, weight = items.share[candidates], count + TASTE_PRIOR
        out[:, 0] = np.clip(items.mean_stars[candidates] + bias, 0.0, 5.0) - items.stars_mean
        out[:, 1] = surplus / weight
        out[:, 2] = (likes - like_share * count) / weight
        mean = count * share
        out[:, 3] = mean / (mean + 10.0)
        out[:, 4] = recent * share
        out[:, 5] = recent_liked * share

    def liked_value(self, places, liked):
        values = self.items.value[places[liked > 0]]
        known = np.isfinite(values)
        return np.where(known, values, 0.0).sum(0) / (known.sum(0) + 1.0)

    def visitor_fields(self, profile, places, liked, like_share, category_likes, now_ms):
        items, traits = self.items, profile["traits"]
        ids = []
        for name, values, known in self.trait_ids:
            text = traits.get(name)
            if text not in known:
                known[text] = value_id(values, text) if text is not None else 0
            ids.append(known[text])
        best = int(category_likes[: items.categories].argmax()) if items.categories else 0
        hours = now_ms // 3_600_000
        ids += [log_bucket(len(places)), share_bucket(like_share), best + 1 if category_likes[best] > 0 else 0]
        ids += [hours % 24, (hours // 24 + 3) % 7, items.model_ids[places[-1]]]
        latest = items.model_ids[places[liked > 0][::-1][: self.spec["liked_items"]]].tolist()
        ids += latest + [0] * (self.spec["liked_items"] - len(latest))
        return np.array(ids, np.int64) + items.visitor_offsets

    def rerank(self, candidates, scores, count):
        """Maximal marginal relevance; ties go to the better candidate."""
        lam = self.lam
        low = scores.min()
        relevance = (scores - low) / max(scores.max() - low, TINY)
        gain = lam * relevance
        # As they are compared with gains: the highest similarity to what was chosen, times (1 - lambda).
        similarity, nearest, row = self.similarity, np.zeros(len(candidates), np.float32), np.empty(len(candidates), np.float32)
        left, chosen, places = np.empty_like(gain), [], candidates.tolist()
        for _ in range(min(count, len(places))):
            np.subtract(gain, nearest, out=left)
            best = int(left.argmax())
            chosen.append(best)
            gain[best] = -np.inf
            similarity[places[best]].take(candidates, out=row, mode="clip")
            np.maximum(nearest, row, out=nearest)
        return [places[at] for at in chosen], relevance[chosen].tolist()
