//! Views, conversions and empty tensors.

use super::*;

#[test]
fn views_share_memory_and_stay_in_bounds() -> Result<()> {
    let device = Device::cpu();
    let t = Tensor::from_slice(&device, &[0, 1, 2, 3, 4, 5], &[3, 2])?;
    let last = t.rows(1..3)?.rows(1..2)?;
    assert_eq!(last.shape(), [1, 2]);
    assert_eq!(last.to_vec::<i32>()?, [4, 5]);
    last.write(&[7, 8])?;
    assert_eq!(t.reshape(&[6])?.to_vec::<i32>()?, [0, 1, 2, 3, 7, 8]);
    assert!(t.rows(2..4).is_err());
    assert!(t.reshape(&[4]).is_err());
    assert!(Tensor::from_slice(&device, &[1.0f32], &[2]).is_err());
    assert!(Tensor::zeros(&device, DType::F32, &[1, 1, 1, 1, 1]).is_err());
    assert_eq!(t.copy_from(&t), Err(Error::Aliased { op: "copy_from" }));
    Ok(())
}

#[test]
fn types_convert_by_rounding_once() -> Result<()> {
    let device = Device::cpu();
    let t = Tensor::from_slice(&device, &[1.0f32 + 1.0 / 128.0, -3.0], &[2])?;
    assert_eq!(t.to_dtype(DType::Bf16)?.to_f64_vec()?, [1.0078125, -3.0]);
    assert_eq!(t.to_dtype(DType::F64)?.to_vec::<f64>()?, [1.0078125, -3.0]);
    assert!(t.to_dtype(DType::I32).is_err());
    assert!(t.to_vec::<f64>().is_err());
    Ok(())
}

#[test]
fn empty_tensors_are_legal() -> Result<()> {
    let device = Device::cpu();
    let t = Tensor::zeros(&device, DType::F64, &[0, 3])?;
    assert!(t.is_empty() && t.rows(0..0)?.is_empty());
    assert_eq!(t.to_vec::<f64>()?, []);
    Ok(())
}
