"""What users get back."""

import copy
import pickle

import pytest

from cellstore.values.document import Document, documents


def test_fields_are_attributes_too():
    doc = Document(_id="x", text="hi", address={"city": "Rome"})
    assert doc.text == "hi"
    assert doc._id == "x"
    assert doc.address.city == "Rome"
    assert doc == {"_id": "x", "text": "hi", "address": {"city": "Rome"}}
    doc.text = "ho"
    del doc.address
    assert doc == {"_id": "x", "text": "ho"}
    assert {"text", "_id", "items"} <= set(dir(doc))


def test_a_missing_field_names_those_there_are():
    with pytest.raises(AttributeError, match="no field 'txet'; it has _id, text"):
        _ = Document(_id="x", text="hi").txet
    with pytest.raises(AttributeError):
        del Document().text


def test_documents_copy_and_pickle():
    doc = Document(_id="x", a=[1])
    for twin in (copy.copy(doc), copy.deepcopy(doc), doc.copy(), pickle.loads(pickle.dumps(doc))):
        assert type(twin) is Document
        assert twin == doc


def test_documents_print_as_dicts_with_the_id_first():
    doc = Document(b=1, _creationTime=2.0, _id="x")
    assert repr(doc) == "{'_id': 'x', 'b': 1, '_creationTime': 2.0}"
    assert "<script>" not in Document(a="<script>")._repr_html_()


def test_documents_are_found_wherever_they_stand():
    assert type(documents({"_id": "x"})) is Document
    page = documents({"page": [{"_id": "x"}, {"y": 1}], "done": True})
    assert type(page) is dict
    assert [type(item) for item in page["page"]] == [Document, dict]
    assert type(documents([[{"_id": "x"}]])[0][0]) is Document
    assert documents(5) == 5
