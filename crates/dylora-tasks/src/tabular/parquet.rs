//! Rows of a parquet file: flat columns of text, numbers and truth values; a row's number, from 1, stands for its line.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::{Columns, Found, Row};
use crate::error::{Error, Result};

/// The wanted columns of every row, in file order.
pub(super) fn read(path: &Path, columns: &Columns) -> Result<Vec<Row>> {
    let damaged = |error: ParquetError| Error::file(path, format!("no readable parquet file: {error}"));
    let file = File::open(path).map_err(Error::io("read", path))?;
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    let found = Found::new(path, &names, columns)?;
    let wanted = [Some(found.text_a), found.text_b, found.label];
    // Other columns, which may be long, are not decoded.
    let mut kept: Vec<usize> = wanted.into_iter().flatten().collect();
    kept.sort_unstable();
    let fields = kept.iter().map(|column| schema.get_fields()[*column].clone()).collect();
    let projection = Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build()
        .map_err(damaged)?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(Some(projection)).map_err(damaged)? {
        let row = row.map_err(damaged)?;
        let line = rows.len() + 1;
        let value = |column: usize, is_label: bool| {
            let place = kept.iter().position(|known| *known == column).unwrap_or(usize::MAX);
            let (name, field) = row.get_column_iter().nth(place).ok_or_else(|| Error::Malformed {
                path: path.to_path_buf(),
                line,
                message: "the row is too short".to_owned(),
            })?;
            text(field, is_label).ok_or_else(|| Error::Malformed {
                path: path.to_path_buf(),
                line,
                message: if is_label {
                    format!("column {name:?} has {field}, not a string, a number or a truth value")
                } else {
                    format!("column {name:?} has {field}, not a string")
                },
            })
        };
        rows.push(Row {
            line,
            text_a: value(found.text_a, false)?,
            text_b: found.text_b.map(|column| value(column, false)).transpose()?,
            label: found.label.map(|column| value(column, true)).transpose()?,
        });
    }
    Ok(rows)
}

/// A value as text; numbers are no texts, but labels.
fn text(field: &Field, is_label: bool) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        _ if !is_label => None,
        Field::Bool(value) => Some(value.to_string()),
        Field::Byte(value) => Some(value.to_string()),
        Field::Short(value) => Some(value.to_string()),
        Field::Int(value) => Some(value.to_string()),
        Field::Long(value) => Some(value.to_string()),
        Field::UByte(value) => Some(value.to_string()),
        Field::UShort(value) => Some(value.to_string()),
        Field::UInt(value) => Some(value.to_string()),
        Field::ULong(value) => Some(value.to_string()),
        Field::Float(value) => Some(value.to_string()),
        Field::Double(value) => Some(value.to_string()),
        _ => None,
    }
}
