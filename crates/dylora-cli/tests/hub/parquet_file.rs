//! Parquet files as the data set has them: flat, snappy, one row group.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

/// One column's values.
pub(crate) enum Column {
    Text(Vec<String>),
    Class(Vec<i64>),
    Score(Vec<f32>),
}

/// Writes a file with these columns.
pub(crate) fn write(path: &Path, columns: &[(&str, Column)]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields = columns.iter().map(|(name, column)| {
        let (physical, logical) = match column {
            Column::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Column::Class(_) => (Physical::INT64, None),
            Column::Score(_) => (Physical::FLOAT, None),
        };
        let field = Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(Repetition::OPTIONAL);
        Arc::new(field.build().unwrap())
    });
    let schema = Type::group_type_builder("schema")
        .with_fields(fields.collect())
        .build()
        .unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, column) in columns {
        let mut out = group.next_column().unwrap().unwrap();
        match column {
            Column::Text(values) => {
                let bytes: Vec<_> = values.iter().map(|text| ByteArray::from(text.as_str())).collect();
                let levels = vec![1; bytes.len()];
                out.typed::<ByteArrayType>()
                    .write_batch(&bytes, Some(&levels), None)
                    .unwrap();
            }
            Column::Class(values) => {
                let levels = vec![1; values.len()];
                out.typed::<Int64Type>()
                    .write_batch(values, Some(&levels), None)
                    .unwrap();
            }
            Column::Score(values) => {
                let levels = vec![1; values.len()];
                out.typed::<FloatType>()
                    .write_batch(values, Some(&levels), None)
                    .unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
